//! Starting the steps that a plan asks for.

use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;

use super::{Outcome, Worker};
use crate::pods::backoff::Backoff;
use crate::pods::plan::{Action, Plan};
use crate::pods::report::{self, Sent};
use crate::pods::steps::{self, Place};
use crate::pods::{fields, resize, resources};
use crate::runtime::{Container, Observed, Runtime, State};

impl<R: Runtime> Worker<R> {
    /// Nothing runs any more: remove the object, then everything on the node. True when all is done.
    pub(super) fn settle(&mut self, uid: &str) -> bool {
        if self.cleaned {
            return true;
        }
        if self.gone {
            if !self.cleaning {
                self.cleaning = true;
                let (shared, uid) = (self.shared.clone(), uid.to_string());
                let paths = self.subject.paths.clone();
                let cgroup = resources::cgroup(&self.subject.pod);
                self.tasks.spawn(async move {
                    let result = steps::clean(&*shared.runtime, &uid, &paths, Some(&cgroup)).await;
                    if result.is_err() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Outcome::Cleaned(result)
                });
            }
            return false;
        }
        if !self.deleting && !self.reporting {
            self.deleting = true;
            let (client, pod) = (self.shared.client.clone(), self.subject.pod.clone());
            self.tasks.spawn(async move {
                let sent = report::delete(&client, &pod).await;
                if sent == Sent::Failed {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Outcome::Deleted(sent)
            });
        }
        false
    }

    pub(super) fn act(&mut self, plan: &Plan, observed: &Observed, now: Timestamp) {
        let mut starts = Vec::new();
        for action in &plan.actions {
            match action {
                Action::CreateSandbox { attempt } if !self.advancing => self.make_sandbox(*attempt, observed),
                Action::Start { container, restarts } if !self.advancing => starts.push((container.clone(), *restarts)),
                Action::StopSandbox { id } if !self.advancing && !self.stopping_sandbox => {
                    self.stopping_sandbox = true;
                    let (runtime, id) = (self.shared.runtime.clone(), id.clone());
                    self.tasks.spawn(async move {
                        if let Err(error) = runtime.stop_sandbox(&id).await {
                            tracing::warn!(sandbox = id, %error, "stopping");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        Outcome::SandboxStopped
                    });
                }
                Action::Resize { containers } if !self.advancing && !self.resizing => {
                    self.resizing = true;
                    let subject = self.subject.clone();
                    let is_meant = |container: &&Container| containers.get(&container.name) == Some(&container.id);
                    let containers: Vec<_> = observed.containers.iter().filter(is_meant).cloned().collect();
                    let before = resize::as_allocated(&self.subject.pod, &self.given(observed));
                    self.tasks.spawn(async move {
                        let result = steps::resize(&subject, &before, &containers).await;
                        if result.is_err() {
                            tokio::time::sleep(Duration::from_secs(5)).await;
                        }
                        Outcome::Resized(result)
                    });
                }
                Action::Kill {
                    id,
                    container,
                    grace_s,
                    message,
                } => {
                    let shorter = self.kills.get(id).is_none_or(|grace| grace_s < grace);
                    if shorter {
                        self.kills.insert(id.clone(), *grace_s);
                        let (subject, id, name) = (self.subject.clone(), id.clone(), container.clone());
                        let (grace_s, message) = (*grace_s, message.clone());
                        let ips = observed
                            .ready_sandbox()
                            .map(|sandbox| sandbox.ips.clone())
                            .unwrap_or_default();
                        self.tasks.spawn(async move {
                            steps::kill(&subject, &name, &id, grace_s, &message, &ips).await;
                            Outcome::Killed(id)
                        });
                    }
                }
                _ => {}
            }
        }
        if !starts.is_empty() {
            self.start(starts, observed, now);
        }
    }

    /// What running containers were given, by name.
    fn given(
        &self,
        observed: &Observed,
    ) -> std::collections::BTreeMap<String, k8s_openapi::api::core::v1::ResourceRequirements> {
        let running = observed
            .containers
            .iter()
            .filter(|container| container.state == State::Running);
        running
            .filter_map(|container| {
                let actual = self.memory.resize.actual.get(&container.id)?;
                Some((container.name.clone(), actual.clone()))
            })
            .collect()
    }

    fn make_sandbox(&mut self, attempt: u32, observed: &Observed) {
        self.advancing = true;
        let subject = self.subject.clone();
        let needed = observed.ready_sandbox().is_none();
        let dead = observed
            .sandboxes
            .iter()
            .filter(|_| needed)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        if needed && attempt > 0 && observed.sandboxes.first().is_some_and(|sandbox| !sandbox.ready) {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.subject.events.normal(None, "SandboxChanged", message);
        }
        self.tasks.spawn(async move {
            let (volumes, sandbox) = tokio::join!(steps::make_volumes(&subject), async {
                if needed {
                    steps::make_sandbox(&subject, attempt, dead).await
                } else {
                    Ok(())
                }
            });
            Outcome::Sandbox(sandbox, Box::new(volumes))
        });
    }

    fn start(&mut self, starts: Vec<(String, u32)>, observed: &Observed, now: Timestamp) {
        let Some(sandbox) = observed.ready_sandbox() else {
            return;
        };
        for (name, restarts) in &starts {
            if *restarts > 0 {
                let previous = self.memory.backoffs.get(name).copied().or_else(|| {
                    let container = observed.newest(name)?;
                    Backoff::after_restarts(container.restarts, container.created_at)
                });
                self.memory.backoffs.insert(name.clone(), Backoff::next(previous, now));
            }
        }
        self.advancing = true;
        let place = Place {
            sandbox_id: sandbox.id.clone(),
            attempt: sandbox.attempt,
            ips: sandbox.ips.clone(),
            volumes: self.volumes.clone(),
            running: observed
                .containers
                .iter()
                .filter(|container| container.state == State::Running)
                .map(|container| (container.name.clone(), container.id.clone()))
                .collect(),
        };
        let (mut subject, stop) = (self.subject.clone(), self.starts.clone());
        if self.memory.resize.pending.is_some() {
            let allocated = &self.memory.resize.allocated;
            subject.pod = std::sync::Arc::new(resize::as_allocated(&subject.pod, allocated));
        }
        let old: Vec<_> = starts
            .iter()
            .flat_map(|(name, _)| observed.containers.iter().filter(move |c| c.name == *name).skip(1))
            .filter(|container| container.state == State::Exited)
            .cloned()
            .collect();
        let hooked = |name: &String| {
            let container = fields::find(&self.subject.pod, name);
            container.is_some_and(|c| c.lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()))
        };
        let hooked = starts.iter().map(|(name, _)| name).filter(|name| hooked(name)).cloned();
        self.in_post_start().extend(hooked);
        let in_post_start = self.in_post_start.clone();
        let wake = self.signal.clone();
        self.tasks.spawn(async move {
            let mut results = Vec::new();
            for (name, restarts) in starts {
                let Some(wanted) = fields::find(&subject.pod, &name) else {
                    continue;
                };
                results.push(steps::start(&subject, &wanted, restarts, &place, &stop).await);
                in_post_start
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&name);
                wake.wake();
            }
            for container in old {
                steps::remove_dead(&*subject.shared.runtime, &container).await;
            }
            Outcome::Started(results)
        });
    }
}
