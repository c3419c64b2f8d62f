//! The web pages, beside a run or alone.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use influence_coordinator::dashboard::{Dashboard, DashboardError};
use influence_coordinator::store::Store;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::DashboardArguments;
use crate::interrupt;
use crate::stored::existing;

/// Where the dashboard of a run is, if it is to have one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DashboardAt {
    Off,
    Address(SocketAddr),
}

impl FromStr for DashboardAt {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => {
                address.parse().map(Self::Address).map_err(|_| "must be `off`, or as in 127.0.0.1:5000".to_owned())
            }
        }
    }
}

/// Serves the pages for as long as what is returned lives. A run goes on without them where their port is taken.
pub(crate) async fn beside(at: DashboardAt, store: &Arc<dyn Store>) -> Result<Option<DropGuard>, DashboardError> {
    let DashboardAt::Address(address) = at else { return Ok(None) };
    let dashboard = match Dashboard::bind(address, store.clone()).await {
        Ok(dashboard) => dashboard,
        Err(error @ DashboardError::Listen { .. }) => {
            eprintln!("no dashboard: {error} by --dashboard, or turn it off by --dashboard off");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    eprintln!("dashboard: http://localhost:{}", dashboard.address.port());
    let stop = CancellationToken::new();
    tokio::spawn(dashboard.serve(stop.clone()));
    Ok(Some(stop.drop_guard()))
}

/// `influence dashboard`: of runs that nobody is at, until it is stopped.
pub(crate) async fn alone(arguments: DashboardArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let store = existing(&arguments.data).await?;
    let dashboard = Dashboard::bind(arguments.listen, store).await?;
    eprintln!("dashboard: http://localhost:{}; Ctrl-C ends it", dashboard.address.port());
    Ok(dashboard.serve(cancel).await?)
}
