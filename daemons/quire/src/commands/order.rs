//! `quire order`: an order replica.

use kit::exit::{Exit, Failure};
use kit::logging;
use kit::settings::OrderSettings;

use super::Daemon;

pub(crate) fn run(daemon: Daemon<OrderSettings>) -> Result<Exit, Failure> {
    let config = daemon.settings.validate()?;
    let access = daemon.settings.common.access()?;
    logging::start(config.log_level, config.log_format);
    let stop = daemon.prepare()?;
    ::order::daemon::run(config, access, stop)?;
    Ok(Exit::Ok)
}
