//! Controllers and scheduler run where the raft leader is, start and stop with leadership. They share one cache of each
//! kind, which is filled as the controller manager.

use std::time::Duration;

use anyhow::Result;
use coxswain_client::{Caches, Client};
use coxswain_supervise::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::claim;

/// What controllers and scheduler get to end by themselves.
const CUT_OFF_AFTER: Duration = Duration::from_secs(2);

/// What runs where the leader is.
pub struct Parts {
    pub controllers: coxswain_controllers::Clients,
    pub scheduler: Client,
    pub config: coxswain_controllers::Config,
    /// Names this process in the Leases.
    pub holder: String,
}

/// Follows leadership until `token` is cancelled, holding the Leases as `holder` meanwhile; an end of either part while leading is an error.
/// `measure` is given the caches of each term.
///
/// # Errors
/// When controllers or scheduler fail.
pub async fn follow(
    mut leader: watch::Receiver<bool>,
    parts: Parts,
    measure: impl Fn(&Caches),
    supervisor: Supervisor,
    token: CancellationToken,
) -> Result<()> {
    let Parts {
        controllers,
        scheduler,
        config,
        holder,
    } = parts;
    loop {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            changed = leader.wait_for(|l| *l) => { changed?; }
        }
        let term = token.child_token();
        let caches = Caches::new(controllers.manager.clone(), term.clone());
        measure(&caches);
        let lead = async {
            tokio::try_join!(
                async {
                    let (clients, config) = (controllers.clone(), config.clone());
                    coxswain_controllers::run(clients, caches.clone(), config, &supervisor, term.clone())
                        .await
                        .map_err(anyhow::Error::from)
                },
                async {
                    let config = coxswain_scheduler::Config::default();
                    coxswain_scheduler::run(scheduler.clone(), caches.clone(), config, &supervisor, term.clone()).await;
                    Ok(())
                },
                async {
                    let claim = || claim::keep(&controllers.manager, "kube-controller-manager", &holder, &term);
                    supervisor.keep("leases/kube-controller-manager", &term, claim).await;
                    Ok(())
                },
                async {
                    let claim = || claim::keep(&scheduler, "kube-scheduler", &holder, &term);
                    supervisor.keep("leases/kube-scheduler", &term, claim).await;
                    Ok(())
                },
            )
        };
        let lost = async {
            let _ = leader.wait_for(|l| !*l).await;
            term.cancel();
            // Another leader's parts run already: these end now, or are cut off.
            tokio::time::sleep(CUT_OFF_AFTER).await;
        };
        // A part that is still waiting for its first lists may not see the token in time; it holds nothing to lose.
        let cut_off = async {
            token.cancelled().await;
            tokio::time::sleep(CUT_OFF_AFTER).await;
        };
        tokio::select! {
            ended = lead => { ended?; }
            () = lost => {}
            () = cut_off => return Ok(()),
        }
    }
}
