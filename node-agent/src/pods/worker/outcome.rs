//! What a worker learns from a step that ended.

use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};

use super::{Outcome, Worker};
use crate::pods::backoff::{FIRST_S, MAX_S};
use crate::pods::plan::{StartFailure, Waiting};
use crate::pods::report::Sent;
use crate::pods::steps::Started;
use crate::runtime::Runtime;
use crate::volumes::{VolumeError, Volumes};

impl<R: Runtime> Worker<R> {
    /// Takes in the end of one step.
    pub(super) fn take(&mut self, outcome: Outcome) {
        let now = Timestamp::now();
        match outcome {
            Outcome::Sandbox(sandbox, volumes) => {
                self.advancing = false;
                let mut pause_s = 0;
                match sandbox {
                    Ok(()) => self.sandbox_failures = 0,
                    Err(_) => {
                        self.sandbox_failures = self.sandbox_failures.saturating_add(1);
                        pause_s = 1 << self.sandbox_failures.min(6);
                    }
                }
                self.take_volumes(*volumes, now, pause_s);
            }
            Outcome::Volumes(volumes) => {
                self.refreshing = false;
                match volumes {
                    Ok(volumes) => self.volumes = volumes,
                    Err(error) => {
                        tracing::warn!(%error, "refreshing volumes");
                        self.volumes.refresh_at = now.checked_add(SignedDuration::from_secs(60)).ok();
                    }
                }
            }
            Outcome::Started(results) => {
                self.advancing = false;
                for started in results {
                    self.take_start(started, now);
                }
            }
            Outcome::Killed(id) => {
                self.kills.remove(&id);
                let mut table = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                table.remove(&id);
            }
            Outcome::Resized(result) => {
                self.resizing = false;
                match result {
                    Ok(given) => {
                        self.memory.resize.actual.extend(given);
                        self.memory.resize.error = None;
                        self.subject
                            .events
                            .normal(None, "ResizeCompleted", "Pod resize completed");
                    }
                    Err(error) => {
                        if self.memory.resize.error.as_ref() != Some(&error) {
                            self.subject.events.warning(None, "ResizeError", &error);
                        }
                        self.memory.resize.error = Some(error);
                    }
                }
            }
            Outcome::SandboxStopped => self.stopping_sandbox = false,
            Outcome::Reported(value, sent) => {
                self.reporting = false;
                if sent == Sent::Written {
                    self.reported = value;
                }
            }
            Outcome::Deleted(sent) => {
                // Gone: another pod may have the name now; the watch will tell.
                self.deleting = sent != Sent::Failed;
            }
            Outcome::Cleaned(result) => match result {
                Ok(()) => self.cleaned = true,
                Err(error) => {
                    tracing::warn!(%error, "cleaning up a pod");
                    self.cleaning = false;
                }
            },
        }
    }

    fn take_volumes(&mut self, volumes: Result<Volumes, VolumeError>, now: Timestamp, sandbox_pause_s: i64) {
        let mut pause_ms = sandbox_pause_s.saturating_mul(1000);
        match volumes {
            Ok(volumes) => {
                self.volumes = volumes;
                self.memory.volumes_ready = true;
                self.volume_failures = 0;
            }
            Err(_) => {
                self.volume_failures = self.volume_failures.saturating_add(1);
                pause_ms = pause_ms.max((500 << self.volume_failures.min(8)).min(122_000));
            }
        }
        self.memory.sandbox_retry_at = (pause_ms > 0)
            .then(|| now.checked_add(SignedDuration::from_millis(pause_ms)).ok())
            .flatten();
    }

    fn take_start(&mut self, started: Started, now: Timestamp) {
        match started.result {
            Ok(()) => {
                self.memory.failures.remove(&started.container);
            }
            Err((waiting, then)) => {
                let before = self.memory.failures.get(&started.container);
                let before = before.map_or(0, |failure| failure.failures);
                let failures = before.saturating_add(1);
                let pause_s = (FIRST_S << before.min(5)).min(MAX_S);
                // A container that was made and could not run is restarted by the usual rules.
                if matches!(waiting.reason.as_str(), "RunContainerError" | "PostStartHookError") {
                    self.memory.failures.remove(&started.container);
                    return;
                }
                let failure = StartFailure {
                    waiting: Waiting { ..waiting },
                    then,
                    at: now,
                    retry_at: now.checked_add(SignedDuration::from_secs(pause_s)).unwrap_or(now),
                    failures,
                };
                self.memory.failures.insert(started.container, failure);
            }
        }
    }
}
