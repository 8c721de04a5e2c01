//! `coxswain down`: stops the cluster on this machine, its pods included; `--purge` removes its data.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::report::line;
use crate::tasks::runtime;
use crate::{cli, estate, instance, kubeconfig, logging, machine};

/// Pods are given their grace period; nothing waits for ever.
const STOP_WITHIN: Duration = Duration::from_secs(90);

/// Stops what runs on the data directory.
///
/// # Errors
/// When the daemon does not end in time, or something cannot be removed.
pub fn run(args: &cli::Down) -> Result<()> {
    logging::start();
    machine::need_root()?;
    let data_dir = &args.place.data_dir;
    if !estate::is_known(data_dir) {
        line(&format!(
            "Nothing to stop: no cluster has run in {}.",
            data_dir.display()
        ));
        return Ok(());
    }
    match instance::holder(data_dir)? {
        Some(pid) => stop(pid, data_dir)?,
        None if coxswain_node_agent::is_left_running(data_dir) => {
            line("The cluster's process is gone, its pods and their containerd are not: stopping them.");
        }
        None => line("The cluster was not running."),
    }
    let _instance = instance::lock(data_dir)?;
    // A daemon that was killed left its containers running: they are this cluster's too.
    clean(data_dir, args.purge)?;
    if args.purge {
        kubeconfig::remove(data_dir)?;
        estate::purge(data_dir)?;
    }
    line(if args.purge {
        "The cluster is gone, its data too."
    } else {
        "The cluster is down; its data is kept."
    });
    Ok(())
}

fn stop(pid: Pid, data_dir: &Path) -> Result<()> {
    kill(pid, Signal::SIGTERM).with_context(|| format!("stop process {pid}"))?;
    let deadline = Instant::now() + STOP_WITHIN;
    while instance::holder(data_dir)?.is_some() {
        if Instant::now() > deadline {
            bail!(
                "process {pid} did not end within {} s; its log tells why",
                STOP_WITHIN.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn clean(data_dir: &Path, purge: bool) -> Result<()> {
    let node = coxswain_node_agent::Remains {
        data_dir: data_dir.to_owned(),
        node_name: machine::name()?,
    };
    runtime()?.block_on(async {
        if purge {
            coxswain_node_agent::remove_everything(&node).await
        } else {
            coxswain_node_agent::stop_everything(&node).await
        }
    })?;
    Ok(())
}
