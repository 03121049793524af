//! `quire frontend`: a front end.

use kit::exit::{Exit, Failure};
use kit::logging;
use kit::settings::FrontendSettings;

use super::Daemon;

pub(crate) fn run(daemon: Daemon<FrontendSettings>) -> Result<Exit, Failure> {
    let config = daemon.settings.validate()?;
    let access = daemon.settings.common.access()?;
    logging::start(config.log_level, config.log_format);
    let stop = daemon.prepare()?;
    ::frontend::daemon::run(config, access, stop)?;
    Ok(Exit::Ok)
}
