//! `quire order`: an order replica.

use kit::exit::{Exit, Failure};
use kit::logging;
use kit::settings::OrderSettings;

use super::Daemon;

pub(crate) fn run(daemon: Daemon<OrderSettings>) -> Result<Exit, Failure> {
    let config = daemon.settings.validate()?;
    logging::start(config.log_level);
    let stop = daemon.prepare()?;
    ::order::daemon::run(config, stop)?;
    Ok(Exit::Ok)
}
