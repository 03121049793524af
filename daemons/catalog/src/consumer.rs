//! What a consumer of the outbox is told, and what its words need in the log.
//!
//! Pure: a view in, an answer out. `service` waits and proposes; the simulation runs the same code.

use api::catalog::{FOLLOW_SALES_MAX, Follow, Followed};
use wal::{Command, Result, View};

use crate::machine::command;
use crate::queries;

/// What a consumer's call needs before it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    /// The catalog is not set up yet: there is nothing to follow.
    SetUp,
    /// It has to be registered, and that applied: from then on nothing that it lacks is trimmed.
    Registration,
    /// This says in the log how far it has recorded. The answer need not wait for it.
    Note(Command),
    /// Nothing.
    Nothing,
}

/// What `follow` needs, by the state that `view` shows.
///
/// # Errors
/// Storage faults and damage.
pub fn needs(view: &View<'_>, follow: &Follow) -> Result<Needs> {
    if queries::figures(view)?.is_none() {
        return Ok(Needs::SetUp);
    }
    let consumers = queries::consumers(view)?;
    let known = consumers.into_iter().find(|(id, _)| *id == follow.consumer);
    Ok(match known {
        None => Needs::Registration,
        Some((_, known)) if follow.recorded > known => {
            Needs::Note(command::acknowledge(follow.consumer, follow.recorded))
        }
        Some(_) => Needs::Nothing,
    })
}

/// The answer to `follow`, and whether it is news: if not, the call may be held. That a newer incarnation has begun is
/// news, also before its first sale.
///
/// # Errors
/// Storage faults and damage.
pub fn followed(view: &View<'_>, follow: &Follow) -> Result<(Followed, bool)> {
    let followed = queries::sales_after(view, follow.after, follow.limit.clamp(1, FOLLOW_SALES_MAX))?;
    let nothing = matches!(&followed, Followed::Sales { after, sales, .. }
        if sales.is_empty() && *after == follow.after);
    Ok((followed, !nothing))
}
