//! What a buyer may be told.
//!
//! A buy is tried on one order replica after the other, always under the same key, so however many attempts
//! reach the log, the first one decides and the others get its outcome. An attempt that ended without an answer
//! may have been the first. From then on only a stored outcome may be told to the buyer; a "no" from another
//! attempt, one that was not logged, would deny a sale that perhaps exists (holes 5). `Buying` keeps that rule.
//!
//! Pure: no sockets, no clock.

use api::catalog::{Decline, Outcome, WriteResult};
use api::order::{Bought, BuyResult};
use kit::link::CallError;

use crate::balancer::{GaveUp, Retry, Step};

/// How a buy ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The catalog decided it, now or at an earlier request with this key: sold, or refused for good.
    Decided {
        /// Name of the order replica that served it.
        replica: String,
        /// The outcome: `Sold` or `Refused`.
        result: WriteResult,
    },
    /// The catalog looked at it and decided nothing. No attempt can have sold anything.
    Declined(Decline),
    /// No attempt can have reached the log: nothing was sold.
    NotSent(GaveUp),
    /// An attempt may have been decided; only a retry with the same key can tell.
    Unknown,
}

/// What the attempts of one buy have shown so far.
#[derive(Debug, Default)]
pub struct Buying {
    /// An attempt ended without an answer.
    unknown: bool,
}

impl Buying {
    /// Judges one attempt, which was made at the order replica configured as `name`.
    pub fn learn(&mut self, name: &str, attempt: Result<Bought, CallError>) -> Step<Verdict> {
        let bought = match attempt {
            Ok(bought) => bought,
            Err(error) => {
                self.unknown |= matches!(error, CallError::Unknown(_));
                return self.retry(Retry::from(&error));
            }
        };
        match bought.result {
            BuyResult::Decided(result) => {
                let replica = if bought.replica.is_empty() { name.to_owned() } else { bought.replica };
                self.decided(replica, result)
            }
            BuyResult::NotSent(reason) => self.retry(Retry::Failed(reason)),
            BuyResult::Unknown(reason) => {
                self.unknown = true;
                Step::Retry(Retry::Failed(reason))
            }
        }
    }

    /// The verdict when no attempt brought one in time.
    pub fn give_up(&self, why: GaveUp) -> Verdict {
        if self.unknown { Verdict::Unknown } else { Verdict::NotSent(why) }
    }

    fn decided(&mut self, replica: String, result: WriteResult) -> Step<Verdict> {
        match &result.outcome {
            Outcome::Sold(_) | Outcome::Refused(_) => Step::Done(Verdict::Decided { replica, result }),
            Outcome::Declined(decline) => self.declined(decline.clone()),
            Outcome::Updated { .. } | Outcome::Created { .. } => {
                self.unknown = true;
                Step::Retry(Retry::Failed(
                    "a buy was answered with the outcome of another kind of write".into(),
                ))
            }
        }
    }

    fn declined(&mut self, decline: Decline) -> Step<Verdict> {
        match decline {
            // Another request is stored under the key, or no request like this one is ever taken: in both cases
            // no attempt sells, whatever became of it.
            Decline::KeyReused | Decline::OutOfBounds => Step::Done(Verdict::Declined(decline)),
            // The attempt slept for longer than outcomes are sure to be kept, so what an earlier attempt did
            // may be forgotten: trying once more could sell twice.
            Decline::Expired if self.unknown => Step::Done(Verdict::Unknown),
            Decline::Expired => Step::Retry(Retry::Failed("the request expired on its way".into())),
            Decline::NotSetUp => self.retry(Retry::Failed("the catalog is not set up yet".into())),
            Decline::OutboxFull { .. }
            | Decline::KeysFull
            | Decline::NoRoom
            | Decline::CatalogFull { .. }
                if self.unknown =>
            {
                Step::Retry(Retry::Failed("the catalog takes no new buys".into()))
            }
            Decline::OutboxFull { .. }
            | Decline::KeysFull
            | Decline::NoRoom
            | Decline::CatalogFull { .. } => Step::Done(Verdict::Declined(decline)),
        }
    }

    /// Full queues end a buy early, but not one that may have been sold: that one is asked for to the end.
    fn retry(&self, why: Retry) -> Step<Verdict> {
        match why {
            Retry::Full(reason) if self.unknown => Step::Retry(Retry::Failed(reason)),
            why => Step::Retry(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::Rejected;
    use api::catalog::{Position, Refusal, Sold};

    use super::*;

    fn result(outcome: Outcome) -> WriteResult {
        WriteResult { index: 9, log_ms: 0, replayed: false, outcome }
    }

    fn answer(outcome: Outcome) -> Result<Bought, CallError> {
        Ok(Bought { replica: "order_service_3".into(), result: BuyResult::Decided(result(outcome)) })
    }

    fn sold() -> Outcome {
        Outcome::Sold(Sold {
            order: 1,
            book: 2,
            title: "RPCs for Dummies.".into(),
            quantity: 1,
            price_cents: 100,
            stock: 999,
            position: Position { incarnation: 1, sale: 1 },
        })
    }

    fn refused() -> Outcome {
        Outcome::Refused(Refusal::OutOfStock { title: "RPCs for Dummies.".into(), available: 0 })
    }

    fn decided(outcome: Outcome) -> Step<Verdict> {
        Step::Done(Verdict::Decided { replica: "order_service_3".into(), result: result(outcome) })
    }

    /// Attempts that end without an answer.
    fn unanswered() -> [Result<Bought, CallError>; 3] {
        [
            Err(CallError::Unknown("connection reset".into())),
            Ok(Bought { replica: String::new(), result: BuyResult::Unknown("no answer in time".into()) }),
            answer(Outcome::Created { book: some_book() }),
        ]
    }

    /// Attempts that certainly did nothing.
    fn nothing_done() -> Vec<Result<Bought, CallError>> {
        vec![
            Err(CallError::Full),
            Err(CallError::NotSent("connection refused".into())),
            Err(CallError::Rejected(Rejected::Overloaded("queue full".into()))),
            Err(CallError::Rejected(Rejected::NotReady("starting".into()))),
            Err(CallError::Rejected(Rejected::NotPrimary { primary: None })),
            Err(CallError::Rejected(Rejected::Refused("another cluster".into()))),
            Ok(Bought { replica: String::new(), result: BuyResult::NotSent("no primary".into()) }),
            answer(Outcome::Declined(Decline::NotSetUp)),
            answer(Outcome::Declined(Decline::OutboxFull { waiting: 5 })),
            answer(Outcome::Declined(Decline::KeysFull)),
            answer(Outcome::Declined(Decline::NoRoom)),
        ]
    }

    fn some_book() -> api::catalog::Book {
        api::catalog::Book {
            id: 2,
            title: "RPCs for Dummies.".into(),
            topic: "distributed systems".into(),
            stock: 1,
            cost_cents: 100,
            changed_at: 1,
        }
    }

    #[test]
    fn a_stored_outcome_is_told_whatever_happened_before() {
        for outcome in [sold(), refused(), Outcome::Refused(Refusal::UnknownBook)] {
            for before in unanswered().into_iter().chain(nothing_done()) {
                let mut buying = Buying::default();
                buying.learn("host", before);
                assert_eq!(buying.learn("host", answer(outcome.clone())), decided(outcome.clone()));
            }
        }
    }

    #[test]
    fn after_an_unknown_attempt_nothing_undecided_is_told() {
        for unknown in unanswered() {
            for after in nothing_done() {
                let mut buying = Buying::default();
                assert!(matches!(buying.learn("host", unknown.clone()), Step::Retry(Retry::Failed(_))));
                let step = buying.learn("host", after.clone());
                assert!(matches!(step, Step::Retry(Retry::Failed(_))), "{after:?} gave {step:?}");
                assert_eq!(buying.give_up(GaveUp::Deadline), Verdict::Unknown);
                assert_eq!(buying.give_up(GaveUp::Full), Verdict::Unknown);
            }
        }
    }

    #[test]
    fn attempts_that_did_nothing_leave_a_clean_no() {
        let mut buying = Buying::default();
        for attempt in nothing_done() {
            buying.learn("host", attempt);
        }
        assert_eq!(buying.give_up(GaveUp::Deadline), Verdict::NotSent(GaveUp::Deadline));
    }

    #[test]
    fn full_queues_are_told_apart_from_failures() {
        let mut buying = Buying::default();
        assert!(matches!(buying.learn("host", Err(CallError::Full)), Step::Retry(Retry::Full(_))));
        let overloaded = Err(CallError::Rejected(Rejected::Overloaded("queue full".into())));
        assert!(matches!(buying.learn("host", overloaded), Step::Retry(Retry::Full(_))));
    }

    #[test]
    fn a_declined_buy_is_told_when_no_attempt_is_unknown() {
        for decline in [Decline::KeyReused, Decline::OutboxFull { waiting: 5 }, Decline::KeysFull] {
            let mut buying = Buying::default();
            let step = buying.learn("host", answer(Outcome::Declined(decline.clone())));
            assert_eq!(step, Step::Done(Verdict::Declined(decline)));
        }
    }

    #[test]
    fn what_no_attempt_can_change_is_told_even_after_an_unknown_one() {
        for decline in [Decline::KeyReused, Decline::OutOfBounds] {
            let mut buying = Buying::default();
            buying.learn("host", Err(CallError::Unknown("reset".into())));
            let step = buying.learn("host", answer(Outcome::Declined(decline.clone())));
            assert_eq!(step, Step::Done(Verdict::Declined(decline)));
        }
    }

    #[test]
    fn an_expired_attempt_is_repeated_unless_one_is_unknown() {
        let expired = || answer(Outcome::Declined(Decline::Expired));
        let mut buying = Buying::default();
        assert!(matches!(buying.learn("host", expired()), Step::Retry(Retry::Failed(_))));
        assert_eq!(buying.learn("host", answer(sold())), decided(sold()));

        let mut buying = Buying::default();
        buying.learn("host", Err(CallError::Unknown("reset".into())));
        assert_eq!(buying.learn("host", expired()), Step::Done(Verdict::Unknown));
    }

    #[test]
    fn a_replica_without_a_name_gets_the_configured_one() {
        let nameless = Ok(Bought { replica: String::new(), result: BuyResult::Decided(result(sold())) });
        let Step::Done(Verdict::Decided { replica, .. }) = Buying::default().learn("host", nameless) else {
            panic!("a sale is told")
        };
        assert_eq!(replica, "host");
    }
}
