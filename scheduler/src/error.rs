//! Why the scheduler had to stop.

/// One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The watch of pods or nodes ended although nobody asked for it.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
}
