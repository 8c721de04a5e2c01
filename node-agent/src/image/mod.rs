//! Images: their names, the one the agent makes itself, and bringing archives into containerd.

pub mod collect;
pub mod import;
pub mod name;
pub mod pause;
