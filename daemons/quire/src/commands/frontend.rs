//! `quire frontend`: a front end.

use kit::exit::{Exit, Failure};
use kit::logging;
use kit::settings::FrontendSettings;

use super::Daemon;

pub(crate) fn run(daemon: Daemon<FrontendSettings>) -> Result<Exit, Failure> {
    let config = daemon.settings.validate()?;
    logging::start(config.log_level);
    let stop = daemon.prepare()?;
    ::frontend::daemon::run(config, stop)?;
    Ok(Exit::Ok)
}
