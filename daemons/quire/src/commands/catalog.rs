//! `quire catalog`: a catalog replica.

use kit::exit::{Exit, Failure};
use kit::logging;
use kit::settings::CatalogSettings;

use super::Daemon;

pub(crate) fn run(daemon: Daemon<CatalogSettings>) -> Result<Exit, Failure> {
    let config = daemon.settings.validate()?;
    logging::start(config.log_level);
    let stop = daemon.prepare()?;
    ::catalog::daemon::run(config, stop)?;
    Ok(Exit::Ok)
}
