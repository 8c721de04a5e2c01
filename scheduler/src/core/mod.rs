//! Everything that decides; no clock, no randomness, no I/O.

pub mod cycle;
pub mod explain;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod queue;
pub mod resources;
pub mod selector;
pub mod snapshot;

#[cfg(test)]
mod tests;
