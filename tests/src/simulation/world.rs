//! A whole run: the machines, the clients, the faults, and who gets which event.

use std::time::Duration;

use super::catalog::Machine;
use super::check::{self, Complaint, History};
use super::client::{CROWD, Client, Wish};
use super::clock::Clock;
use super::disk::Disk;
use super::front_end::FrontEnd;
use super::network::Place;
use super::outside::{CATALOGS, CatalogStep, Completion, Event, Message, Outside, Request, Thread, name};
use super::random::Random;
use super::reader::Figures;
use super::schedule::{self, Fault};
use super::trace::Trace;
use super::weather::Weather;
use super::{Plan, Report};

/// Shortest time of a run in which things may go wrong.
const STORM_MIN: Duration = Duration::from_secs(6);
/// Longest such time.
const STORM_MAX: Duration = Duration::from_secs(9);
/// How long clients begin new things after that.
const CALM: Duration = Duration::from_millis(1_500);
/// Liveness: everything that was begun has ended so long after the last fault.
const LIMIT: Duration = Duration::from_secs(10);
/// How long replicas may take to agree after that.
const AGREE_LIMIT: Duration = Duration::from_secs(5);
/// Longest pause until the peers of a dead process are refused.
const REFUSED_AFTER: Duration = Duration::from_millis(5);
/// Longest time until a machine that stood still takes what has gathered, so that the order varies.
const RESUME: Duration = Duration::from_micros(300);
/// Election timeouts differ by less than this many ticks.
const ELECTION_SPREAD: usize = wal::replica::ELECTION_TICKS;

struct World<'d> {
    catalogs: Vec<Machine<'d>>,
    fronts: Vec<FrontEnd>,
    clients: Vec<Client>,
    out: Outside,
    /// Clients begin nothing new.
    closing: bool,
    /// Election timeout of each replica's process, in ticks above the least.
    elections: [usize; CATALOGS],
}

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Report {
    let disks: Vec<Disk> = (0..CATALOGS).map(|_| Disk::default()).collect();
    let mut random = Random::new(plan.seed ^ (plan.profile as u64) << 56);
    let fronts = if random.below(4) == 0 { 3 } else { 2 };
    let storm = random.between(STORM_MIN, STORM_MAX);
    let mut world = World::new(plan, &disks, fronts, random);
    world.start();
    world.go_until(storm, |_| false);
    world.clear_up();
    world.go_until(storm + CALM, |_| false);
    world.closing = true;
    let finished = world.go_until(storm + LIMIT, World::is_idle);
    let end = world.out.now.max(storm);
    let agreed = finished && world.go_until(end + AGREE_LIMIT, World::agrees);
    world.report(&disks, finished, agreed)
}

impl<'d> World<'d> {
    fn new(plan: &Plan, disks: &'d [Disk], fronts: usize, mut random: Random) -> World<'d> {
        let at_the_bound = plan.profile.clocks_at_the_bound();
        let rule = plan.left_out.and_then(|left_out| left_out.rule());
        let mut clock = || Clock::some(&mut random, at_the_bound);
        let catalogs =
            disks.iter().enumerate().map(|(at, disk)| Machine::new(at, clock(), disk, rule)).collect();
        let fronts: Vec<FrontEnd> =
            (0..fronts).map(|n| FrontEnd::new(CATALOGS + n, clock(), plan.left_out)).collect();
        let mut clients = Vec::new();
        for home in 0..fronts.len() {
            for (kind, count, pause) in CROWD {
                (0..count).for_each(|_| clients.push(Client::new(clients.len(), kind, home, pause)));
            }
        }
        let trace = Trace::new(plan.in_words);
        let out = Outside::new(random, plan.profile.weather(), trace, CATALOGS + fronts.len());
        World { catalogs, fronts, clients, out, closing: false, elections: [0; CATALOGS] }
    }

    fn start(&mut self) {
        (0..CATALOGS).for_each(|at| self.start_catalog(at));
        for front in &mut self.fronts {
            front.start(&mut self.out);
        }
        for client in 0..self.clients.len() {
            let soon = self.out.random.between(Duration::ZERO, Duration::from_millis(50));
            self.out.after(soon, Event::Client(client));
        }
        self.schedule_fault();
    }

    /// Starts a replica with an election timeout that no other has.
    fn start_catalog(&mut self, at: Place) {
        let others: Vec<usize> =
            (0..CATALOGS).filter(|other| *other != at).map(|o| self.elections[o]).collect();
        let free: Vec<usize> = (0..ELECTION_SPREAD).filter(|ticks| !others.contains(ticks)).collect();
        self.elections[at] = free[self.out.random.index(free.len())];
        self.catalogs[at].start(self.elections[at], &mut self.out);
    }

    /// Lets events happen until `until`, or until `done`, which is looked at now and then; returns whether it was.
    fn go_until(&mut self, until: Duration, done: impl Fn(&World<'d>) -> bool) -> bool {
        let mut events = 0u32;
        loop {
            events += 1;
            if events % 64 == 1 && done(self) {
                return true;
            }
            let Some(event) = self.out.next_event() else { return done(self) };
            if self.out.now > until {
                let now = self.out.now;
                self.out.at(now, event);
                return done(self);
            }
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
                match to.checked_sub(CATALOGS) {
                    None => self.catalogs[to].receive(from, *message, out),
                    Some(front) => self.fronts[front].receive(from, *message, out),
                }
            }
            Event::Catalog { at, life, step } => self.catalogs[at].step(life, step, out),
            Event::FrontEnd { at, life, step } => self.fronts[at - CATALOGS].step(life, step, out),
            Event::Client(client) => self.let_client(client),
            Event::Strikes => self.strike(),
            Event::Ends(fault) => self.end(&fault),
        }
    }

    fn thread_of(&self, event: &Event) -> Option<(Place, Thread)> {
        match event {
            Event::Arrives { to, message, .. } => {
                let gated =
                    matches!(**message, Message::Ask { request: Request::Poll(_) | Request::Write(_), .. });
                Some((*to, if gated { Thread::Gate } else { Thread::First }))
            }
            Event::Catalog { at, step: CatalogStep::Tick | CatalogStep::Turn, .. } => {
                Some((*at, Thread::First))
            }
            Event::Catalog { at, .. } => Some((*at, Thread::Gate)),
            Event::FrontEnd { at, .. } => Some((*at, Thread::First)),
            Event::Client(client) => Some((CATALOGS + self.clients[*client].home, Thread::First)),
            Event::Strikes | Event::Ends(_) => None,
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
            let (number, pause) = match completion {
                Completion::Read { client, answered } => {
                    (client, Some(self.clients[client].read_done(answered, &mut self.out)))
                }
                Completion::Write { client, attempt, answer } => {
                    (client, self.clients[client].write_done(attempt, &answer, &mut self.out))
                }
            };
            if let Some(pause) = pause {
                self.out.after(pause, Event::Client(number));
            }
        }
    }

    fn schedule_fault(&mut self) {
        let mean = self.out.weather.faults.mean;
        if !mean.is_zero() {
            let pause = self.out.random.around(mean);
            self.out.after(pause, Event::Strikes);
        }
    }

    /// The replica that seems to lead; some replica if none does.
    fn primary(&self) -> Place {
        let primary = |at: &Place| {
            self.catalogs[*at].status().filter(|status| status.role == wal::replica::Role::Primary)
        };
        (0..CATALOGS)
            .filter(|at| primary(at).is_some())
            .max_by_key(|at| primary(at).map(|s| s.term))
            .unwrap_or(0)
    }

    fn strike(&mut self) {
        let mix = self.out.weather.faults.mix;
        if self.out.weather.faults.mean.is_zero() {
            return;
        }
        self.schedule_fault();
        let (primary, places) = (self.primary(), CATALOGS + self.fronts.len());
        let (fault, lasts) = schedule::draw(&mut self.out.random, mix, primary, places);
        let out = &mut self.out;
        out.say(|| format!("-- {fault:?} for {lasts:?}"));
        match &fault {
            Fault::Cut(pairs) => pairs.iter().for_each(|(from, to)| out.network.cut(*from, *to)),
            Fault::Pause(at, threads) => threads.iter().for_each(|thread| out.pause(*at, *thread, lasts)),
            Fault::Death(at, known) => match at.checked_sub(CATALOGS) {
                Some(front) => self.fronts[front].die(out),
                None if self.catalogs[*at].is_up() => {
                    self.catalogs[*at].die(out);
                    if *known {
                        let soon = out.random.between(Duration::ZERO, REFUSED_AFTER);
                        let peers = (0..CATALOGS).filter(|peer| peer != at);
                        peers.for_each(|peer| out.after(soon, Event::Ends(Fault::Rumour(peer, *at))));
                    }
                }
                None => {}
            },
            Fault::Stop(at) => match at.checked_sub(CATALOGS) {
                Some(front) => self.fronts[front].leave(out),
                None if !self.catalogs[*at].is_stopping() => self.catalogs[*at].stop(out),
                None => {}
            },
            Fault::Rumour(at, about) => {
                if at != about {
                    self.catalogs[*at].hear_of_death(*about, out);
                }
            }
        }
        out.after(lasts, Event::Ends(fault));
    }

    fn end(&mut self, fault: &Fault) {
        let out = &mut self.out;
        match fault {
            Fault::Cut(pairs) => pairs.iter().for_each(|(from, to)| out.network.mend(*from, *to)),
            Fault::Pause(..) => {}
            Fault::Death(at, _) | Fault::Stop(at) => match at.checked_sub(CATALOGS) {
                Some(front) if !self.fronts[front].is_up() => self.fronts[front].start(out),
                Some(_) => {}
                None if !self.catalogs[*at].is_up() => self.start_catalog(*at),
                // A planned stop that takes longer.
                None if self.catalogs[*at].is_stopping() => {
                    out.after(Duration::from_millis(100), Event::Ends(fault.clone()));
                }
                None => {}
            },
            Fault::Rumour(at, about) => {
                // Nobody is refused over a link that is cut, or by a process that runs again.
                let refused = !out.network.is_cut(*at, *about) && !out.network.is_cut(*about, *at);
                if at != about && refused && !self.catalogs[*about].is_up() {
                    self.catalogs[*at].hear_of_death(*about, out);
                }
            }
        }
    }

    /// All faults end. Processes that stop as planned are started again when they have stopped.
    fn clear_up(&mut self) {
        self.out.say(|| "-- faults end".into());
        self.out.weather = Weather::CALM;
        self.out.network.mend_all();
        self.out.wake_all();
        for at in 0..CATALOGS {
            if !self.catalogs[at].is_up() {
                self.start_catalog(at);
            }
        }
        for front in &mut self.fronts {
            if !front.is_up() {
                front.start(&mut self.out);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| client.busy_since().is_none())
    }

    fn agrees(&self) -> bool {
        let statuses: Vec<_> = self.catalogs.iter().map(Machine::status).collect();
        check::agree(&statuses)
    }

    fn report(mut self, disks: &[Disk], finished: bool, agreed: bool) -> Report {
        let mut complaints = Vec::new();
        let mut complain = |at, words| complaints.push(Complaint { at, words });
        let now = self.out.now;
        if !finished {
            for client in &self.clients {
                if let Some(since) = client.busy_since() {
                    complain(now, format!("{} has waited since {since:?}", client.name()));
                }
            }
        }
        if finished && !agreed {
            let statuses: Vec<_> = self.catalogs.iter().map(Machine::status).collect();
            complain(now, format!("the replicas do not agree: {statuses:?}"));
        }
        let committed = |at: &usize| self.catalogs[*at].status().map_or(0, |status| status.committed);
        let best = (0..CATALOGS).max_by_key(committed).unwrap_or(0);
        let history = History::replay(&disks[best], committed(&best));
        if agreed {
            for (at, disk) in disks.iter().enumerate() {
                for words in check::differences(disk, &history) {
                    complain(now, format!("{}: {words}", name(at)));
                }
            }
        }
        complaints.extend(self.out.reads.complaints(&history));
        complaints.extend(self.out.writes.complaints(&history));
        let figures = self.fronts.iter().map(|front| front.figures).fold(Figures::default(), Figures::plus);
        self.out.trace.mark(now, 4, history.hash as u64);
        let (writes, terms) = (self.out.writes.count(), self.catalogs[best].status().map_or(0, |s| s.term));
        Report {
            complaints,
            figures,
            writes,
            terms,
            simulated: now,
            hash: self.out.trace.hash(),
            lines: self.out.trace.into_lines(),
        }
    }
}
