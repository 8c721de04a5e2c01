//! `/healthz`, `/livez`, `/readyz` and their single checks.

use coxswain_api::ApiError;

use crate::answer::{self, Reply};
use crate::query::Query;
use crate::shared::Shared;

/// Names of the checks, in the order they are listed.
const CHECKS: &[&str] = &["ping", "log", "etcd"];

/// Answers one of the three endpoints (`which`) or one of its checks.
pub(super) fn answer(shared: &Shared, which: &str, rest: &[&str], query: &Query) -> Result<Reply, ApiError> {
    let mut names: Vec<&str> = CHECKS.to_vec();
    if which == "readyz" {
        names.extend(["poststarthook/start-apiserver", "shutdown"]);
    }
    if !rest.is_empty() {
        let wanted = rest.join("/");
        let Some(name) = names.iter().find(|name| **name == wanted) else {
            return Err(ApiError::page_not_found());
        };
        return Ok(match check(shared, name) {
            Ok(()) => answer::text(200, "ok"),
            Err(why) => answer::text(500, format!("internal server error: {why}\n")),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = false;
    for name in names {
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check(shared, name) {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(_) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if failed {
        return Ok(answer::text(500, format!("{lines}{which} check failed\n")));
    }
    if query.flag("verbose").is_some() {
        return Ok(answer::text(200, format!("{lines}{which} check passed\n")));
    }
    Ok(answer::text(200, "ok"))
}

fn check(shared: &Shared, name: &str) -> Result<(), String> {
    match name {
        "etcd" => match shared.store.stopped().borrow().as_deref() {
            Some(why) => Err(format!("the store has stopped: {why}")),
            None => Ok(()),
        },
        "shutdown" if shared.stopping.is_cancelled() => Err("process is shutting down".to_owned()),
        "poststarthook/start-apiserver" if !shared.is_ready() => Err("not finished".to_owned()),
        _ => Ok(()),
    }
}
