//! The discovery documents, made from the registry.
