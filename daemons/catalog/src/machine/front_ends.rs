//! Front ends that may hold leases, for the primary that comes next: it waits for these before it lets anything change.
//!
//! `sessions` says when a front end is registered and removed; here it is only kept.

use std::ops::ControlFlow;

use api::session::{FRONT_ENDS_MAX, FrontEnd};
use wal::{Lookup, Result};

use super::Reply;
use super::command::FrontEndNamed;
use super::step::Step;
use super::tables::{FRONT_ENDS, HEAD, LEASES_ENDED_KEY};

pub(super) fn register(step: &mut Step<'_, '_>, named: &FrontEndNamed) -> Result<Reply> {
    if step.state.get::<u64>(FRONT_ENDS, &named.front_end)?.is_some() {
        return Ok(Reply::FrontEnd { registered: true });
    }
    if step.state.count(FRONT_ENDS)? >= FRONT_ENDS_MAX as u64 {
        return Ok(Reply::FrontEnd { registered: false });
    }
    step.state.insert(FRONT_ENDS, &named.front_end, &step.stamp.log_ms)?;
    Ok(Reply::FrontEnd { registered: true })
}

pub(super) fn remove(step: &mut Step<'_, '_>, named: &FrontEndNamed) -> Result<Reply> {
    step.state.delete(FRONT_ENDS, &named.front_end)?;
    Ok(Reply::FrontEnd { registered: false })
}

pub(super) fn leases_ended(step: &mut Step<'_, '_>) -> Result<Reply> {
    let term = step.term;
    step.state.put(HEAD, LEASES_ENDED_KEY, &term)?;
    Ok(Reply::LeasesEnded)
}

/// All registered front ends, in order of id.
pub(crate) fn registered(view: &impl Lookup) -> Result<Vec<FrontEnd>> {
    let mut registered = Vec::new();
    view.scan(FRONT_ENDS, &[], &mut |key, _: u64| {
        registered.push(key.try_into().expect("ids of front ends have sixteen bytes"));
        ControlFlow::Continue(())
    })?;
    Ok(registered)
}

/// The newest term whose primary ended all leases itself, 0 if none did.
pub(crate) fn leases_ended_in(view: &impl Lookup) -> Result<u64> {
    Ok(view.get(HEAD, LEASES_ENDED_KEY)?.unwrap_or(0))
}
