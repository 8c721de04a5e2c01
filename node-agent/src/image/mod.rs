//! Images: their names, the archives the agent writes itself, and bringing archives into containerd.

pub mod archive;
pub mod import;
pub mod name;
pub mod pause;
