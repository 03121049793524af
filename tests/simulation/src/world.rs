//! A whole run: the machines, the clients, the faults, and who gets which event.

mod faults;
mod losses;
mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use wal::level;
use wal::store::Memory;

use super::archive::Archive;
use super::books;
use super::catalog;
use super::check::{self, Complaint, LIMIT, SETTLE_LIMIT};
use super::client::{CROWD, Client, Wish};
use super::clock::Clock;
use super::disk::Disk;
use super::front_end::FrontEnd;
use super::host::{REPLICAS, Start};
use super::network::Place;
use super::order;
use super::outside::{CATALOGS, Completion, Event, FRONTS, Message, Outside, Request, Thread, name};
use super::random::Random;
use super::reader::Figures;
use super::sabotage::Sabotage;
use super::trace::Trace;
use super::weather::Clocks;
use super::{Plan, Profile, Report};

/// How a run goes: how much longer clients think than in a crowd, and how long things may go wrong, in seconds. Crowded runs
/// find what needs many at once, sparse ones what needs time.
const PACES: [(u32, u64, u64); 4] = [(1, 4, 7), (8, 12, 20), (40, 100, 200), (150, 500, 1_000)];
/// The same where many reads are wanted: always a crowd, and for longer.
const CROWDED: (u32, u64, u64) = (1, 15, 30);
/// The same where disks are replaced, which takes a while each time.
const REPLACING: [(u32, u64, u64); 4] = [(1, 12, 20), (8, 30, 60), (40, 60, 120), (150, 150, 300)];
/// How long clients begin new things after that.
const CALM: Duration = Duration::from_millis(1_500);
/// Longest time until a machine that stood still takes what has gathered, so that the order varies.
const RESUME: Duration = Duration::from_micros(300);
/// Election timeouts differ by less than this many ticks.
const ELECTION_SPREAD: usize = wal::replica::ELECTION_TICKS;
/// How often primaries look whether their group can agree on a newer level.
const LEVELS_EVERY: Duration = Duration::from_secs(1);

struct World<'d> {
    plan: Plan,
    disks: &'d [Disk],
    catalogs: Vec<catalog::Machine<'d>>,
    orders: Vec<order::Machine<'d>>,
    fronts: Vec<FrontEnd>,
    clients: Vec<Client>,
    out: Outside,
    /// Clients begin nothing new.
    closing: bool,
    events: u64,
    /// Election timeout of each replica's process, in ticks above the least.
    elections: [usize; FRONTS],
    /// Replicas whose disks were lost: they take no part any more, or come back with blank ones.
    gone: [bool; FRONTS],
    /// Older images of their disks.
    images: Vec<Option<Memory>>,
}

/// Runs a plan to its end. A panic of the store's code is a complaint, too.
pub fn run(plan: &Plan) -> Report {
    let trace = Trace::new(plan.in_words);
    let handle = trace.clone();
    catch_unwind(AssertUnwindSafe(|| run_with(plan, trace))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        let at = handle.now();
        let complaints = vec![Complaint { at, words: format!("panic: {}", words.unwrap_or_default()) }];
        let (hash, lines) = (handle.hash(), handle.lines());
        Report { complaints, simulated: at, hash, lines, ..Report::default() }
    })
}

fn run_with(plan: &Plan, trace: Trace) -> Report {
    let lies = plan.sabotage == Some(Sabotage::SkipsSync);
    let archives: [Arc<Archive>; 2] = Default::default();
    let archive = |at: Place| archives[usize::from(at >= CATALOGS)].clone();
    let disks: Vec<Disk> = (0..FRONTS).map(|at| Disk::new(lies, archive(at))).collect();
    let mut random = Random::new(plan.seed ^ (plan.profile as u64) << 56);
    let fronts = if random.below(4) == 0 { 3 } else { 2 };
    let pace = random.index(PACES.len());
    let (pace, shortest, longest) = match plan.profile {
        Profile::Cache => CROWDED,
        Profile::Replacements => REPLACING[pace],
        _ => PACES[pace],
    };
    let storm = random.between(Duration::from_secs(shortest), Duration::from_secs(longest));
    let mut world = World::new(plan, &disks, fronts, pace, trace, random);
    world.start();
    world.go_until(storm, |_| false);
    world.clear_up();
    world.go_until(storm + CALM, |_| false);
    world.closing = true;
    let finished = world.go_until(storm + LIMIT, World::is_idle);
    let end = world.out.now.max(storm);
    let settled = finished && world.go_until(end + SETTLE_LIMIT, World::has_settled);
    world.report(finished, settled)
}

impl<'d> World<'d> {
    fn new(
        plan: &Plan,
        disks: &'d [Disk],
        fronts: usize,
        pace: u32,
        trace: Trace,
        mut random: Random,
    ) -> World<'d> {
        let clocks = plan.profile.clocks();
        let mut clock = || Clock::some(&mut random, clocks);
        let catalogs = (0..CATALOGS).map(|at| catalog::Machine::new(at, clock(), &disks[at], plan.sabotage));
        let catalogs: Vec<_> = catalogs.collect();
        let orders = (CATALOGS..FRONTS).map(|at| order::Machine::new(at, clock(), &disks[at], plan.sabotage));
        let orders: Vec<_> = orders.collect();
        let fronts: Vec<FrontEnd> =
            (0..fronts).map(|n| FrontEnd::new(FRONTS + n, clock(), plan.sabotage)).collect();
        let mut clients = Vec::new();
        for home in 0..fronts.len() {
            for (kind, count, pause) in CROWD {
                (0..count).for_each(|_| clients.push(Client::new(clients.len(), kind, home, pause * pace)));
            }
        }
        let sampled = 1 + random.below(books::BOOKS);
        let mut out = Outside::new(random, plan.profile.weather(), trace, FRONTS + fronts.len());
        out.samples = check::Samples::of(sampled, books::STOCK, books::cost_cents(sampled))
            .without_hits(clocks == Clocks::Beyond);
        let error = plan.profile.tick_error_percent();
        if error > 0 {
            for at in 0..FRONTS {
                let percent = 100 - error + out.random.below(2 * error + 1);
                out.set_tick_percent(at, percent as u32);
            }
        }
        World {
            plan: *plan,
            disks,
            catalogs,
            orders,
            fronts,
            clients,
            out,
            closing: false,
            events: 0,
            elections: [0; FRONTS],
            gone: [false; FRONTS],
            images: (0..FRONTS).map(|_| None).collect(),
        }
    }

    fn start(&mut self) {
        if self.plan.profile.replaces_disks() {
            self.form_groups();
        }
        (0..FRONTS).for_each(|at| self.start_replica(at));
        for front in &mut self.fronts {
            front.start(&mut self.out);
        }
        for client in 0..self.clients.len() {
            let soon = self.out.random.between(Duration::ZERO, Duration::from_millis(50));
            self.out.after(soon, Event::Client(client));
        }
        self.out.after(LEVELS_EVERY, Event::Levels);
        self.schedule_fault();
    }

    fn is_up(&self, at: Place) -> bool {
        match at {
            ..CATALOGS => self.catalogs[at].host().is_up(),
            CATALOGS..FRONTS => self.orders[at - CATALOGS].host().is_up(),
            _ => self.fronts[at - FRONTS].is_up(),
        }
    }

    fn status(&self, at: Place) -> Option<wal::replica::Status> {
        match at {
            ..CATALOGS => self.catalogs[at].host().status(),
            _ => self.orders[at - CATALOGS].host().status(),
        }
    }

    /// Starts a replica with an election timeout that no other of its group has. One whose disk was lost stays out, or looks
    /// for its group with a blank one.
    fn start_replica(&mut self, at: Place) {
        if self.is_up(at) || self.stays_out(at) {
            return;
        }
        let group = super::schedule::group_of(at);
        let others: Vec<usize> =
            (group..group + REPLICAS).filter(|other| *other != at).map(|o| self.elections[o]).collect();
        let free: Vec<usize> = (0..ELECTION_SPREAD).filter(|ticks| !others.contains(ticks)).collect();
        self.elections[at] = free[self.out.random.index(free.len())];
        self.spoil(at);
        let life = match at {
            ..CATALOGS => self.catalogs[at].host().life,
            _ => self.orders[at - CATALOGS].host().life,
        };
        let old = self.plan.profile.upgrades() && life == 0;
        let level = if old { level::FIRST } else { level::NEWEST };
        let start = Start { election_ticks: self.elections[at], level };
        match at {
            ..CATALOGS => self.catalogs[at].start(&start, &mut self.out),
            _ => self.orders[at - CATALOGS].start(&start, &mut self.out),
        }
    }

    /// Lets events happen until `until`, or until `done`, which is looked at now and then; returns whether it was.
    fn go_until(&mut self, until: Duration, done: impl Fn(&World<'d>) -> bool) -> bool {
        let mut events = 0u32;
        loop {
            events = events.wrapping_add(1);
            if events % 64 == 1 && done(self) {
                return true;
            }
            let Some(event) = self.out.next_event() else { return done(self) };
            if self.out.now > until {
                let now = self.out.now;
                self.out.at(now, event);
                return done(self);
            }
            self.events += 1;
            self.happen(event);
            self.complete();
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some((at, thread)) = self.thread_of(&event)
            && let Some(until) = self.out.paused_until(at, thread)
        {
            let until = until + self.out.random.between(Duration::ZERO, RESUME);
            return self.out.at(until, event);
        }
        let out = &mut self.out;
        match event {
            Event::Arrives { from, to, message } => {
                if out.network.is_cut(from, to) {
                    return;
                }
                out.trace.mark(out.now, 7, (from as u64) << 40 | (to as u64) << 32 | message.weight());
                match to {
                    ..CATALOGS => self.catalogs[to].receive(from, *message, out),
                    CATALOGS..FRONTS => self.orders[to - CATALOGS].receive(from, *message, out),
                    _ => self.fronts[to - FRONTS].receive(from, *message, out),
                }
            }
            Event::Replica { at, life, step } => match at {
                ..CATALOGS if self.catalogs[at].host().is_of(life) => {
                    self.catalogs[at].replica_step(step, out)
                }
                CATALOGS.. if self.orders[at - CATALOGS].host().is_of(life) => {
                    self.orders[at - CATALOGS].replica_step(step, out);
                }
                _ => {}
            },
            Event::Catalog { at, life, step } if self.catalogs[at].host().is_of(life) => {
                self.catalogs[at].step(step, out);
            }
            Event::Order { at, life, step } if self.orders[at - CATALOGS].host().is_of(life) => {
                self.orders[at - CATALOGS].step(step, out);
            }
            Event::Catalog { .. } | Event::Order { .. } => {}
            Event::Recovery { at, step } => match at {
                ..CATALOGS => self.catalogs[at].host_mut().recovery_step(step, out),
                _ => self.orders[at - CATALOGS].host_mut().recovery_step(step, out),
            },
            Event::FrontEnd { at, life, step } => self.fronts[at - FRONTS].step(life, step, out),
            Event::Client(client) => self.let_client(client),
            Event::Levels => self.agree_on_levels(),
            Event::Strikes => self.strike(),
            Event::Ends(fault) => self.end(&fault),
        }
    }

    fn thread_of(&self, event: &Event) -> Option<(Place, Thread)> {
        match event {
            Event::Arrives { to, message, .. } => {
                let first = matches!(
                    **message,
                    Message::Frame(_) | Message::Ask { request: Request::Read(_) | Request::Orders(_), .. }
                );
                Some((*to, if first || *to >= FRONTS { Thread::First } else { Thread::Second }))
            }
            Event::Replica { at, .. } => Some((*at, Thread::First)),
            Event::Catalog { at, .. } | Event::Order { at, .. } | Event::Recovery { at, .. } => {
                Some((*at, Thread::Second))
            }
            Event::FrontEnd { at, .. } => Some((*at, Thread::First)),
            Event::Client(client) => Some((FRONTS + self.clients[*client].home, Thread::First)),
            Event::Levels | Event::Strikes | Event::Ends(_) => None,
        }
    }

    fn let_client(&mut self, number: usize) {
        let (client, out) = (&mut self.clients[number], &mut self.out);
        let front = &mut self.fronts[client.home];
        if !front.is_up() {
            return out.after(Duration::from_millis(20), Event::Client(number));
        }
        match client.wish(self.closing, out) {
            None => {}
            Some(Wish::Wait(pause)) => out.after(pause, Event::Client(number)),
            Some(Wish::Write(attempt, to, writes)) => front.write(number, attempt, to, writes, out),
            Some(Wish::Buy(attempt, buy)) => front.buy(number, attempt, buy, out),
            Some(Wish::Orders(query)) => front.orders(number, query, out),
            Some(Wish::Read(wanted)) if front.read(number, wanted, out) => {
                let pause = client.read_done(true, out);
                out.after(pause, Event::Client(number));
            }
            Some(Wish::Read(_)) => {} // the front end answers later
        }
    }

    /// Tells clients what came of what they asked for.
    fn complete(&mut self) {
        while let Some(completion) = self.out.completions.pop() {
            let out = &mut self.out;
            let (number, pause) = match completion {
                Completion::Read { client, answered } => {
                    (client, Some(self.clients[client].read_done(answered, out)))
                }
                Completion::Write { client, attempt, answer } => {
                    (client, self.clients[client].write_done(attempt, &answer, out))
                }
                Completion::Buy { client, attempt, verdict } => {
                    (client, self.clients[client].buy_done(attempt, verdict, out))
                }
                Completion::Orders { client, read } => {
                    (client, Some(self.clients[client].orders_done(read, out)))
                }
            };
            if let Some(pause) = pause {
                self.out.after(pause, Event::Client(number));
            }
        }
    }

    /// Each primary asks the members of its group, and logs the level that all understand (`kit::group::levels`).
    fn agree_on_levels(&mut self) {
        let out = &mut self.out;
        out.after(LEVELS_EVERY, Event::Levels);
        let of_catalogs: Vec<_> = self.catalogs.iter().map(|machine| machine.host().level()).collect();
        for (at, machine) in self.catalogs.iter_mut().enumerate() {
            machine.host_mut().agree_on_level(&others(&of_catalogs, at), out);
        }
        let of_orders: Vec<_> = self.orders.iter().map(|machine| machine.host().level()).collect();
        for (at, machine) in self.orders.iter_mut().enumerate() {
            machine.host_mut().agree_on_level(&others(&of_orders, at), out);
        }
    }

    fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| client.busy_since().is_none())
    }
}

fn others(levels: &[Option<level::Level>], at: usize) -> Vec<Option<level::Level>> {
    levels.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, level)| *level).collect()
}
