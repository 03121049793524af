//! What a catalog begins with that was restored from a backup: commands that its log gets before anybody uses it.
//!
//! A new incarnation, so that no position and no order number is ever given twice, whatever the store that was backed up
//! sold after that. Its consumers and front ends belong to that store and never come back; the order group that was
//! restored beside it follows instead, and everything that it lacks is kept for it.

use wal::{Command, Result, View};

use crate::machine::{ConsumerId, command};
use crate::queries;

/// The commands, for the state that `view` sees; none before the catalog was set up. `follower` is the id of the order
/// group that was restored beside it.
pub fn first_commands(view: &View<'_>, follower: ConsumerId) -> Result<Vec<Command>> {
    let Some(figures) = queries::figures(view)? else { return Ok(Vec::new()) };
    let mut commands = vec![command::incarnate(figures.newest.incarnation + 1)];
    // The foremost first: what is removed last is the slowest one, so that nothing is trimmed on the way.
    let mut consumers = queries::consumers(view)?;
    consumers.sort_by_key(|(id, through)| (std::cmp::Reverse(*through), *id));
    commands.extend(consumers.into_iter().map(|(id, _)| command::remove_consumer(id)));
    commands.extend(queries::front_ends(view)?.into_iter().map(command::remove_front_end));
    commands.push(command::register_consumer(follower));
    Ok(commands)
}
