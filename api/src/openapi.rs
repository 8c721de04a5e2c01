//! The OpenAPI documents, made from the schema and the registry.
