//! `/flagz` and `/statusz`: what runs here, for people.

use coxswain_api::ApiError;

use super::{KUBERNETES, Page, paths};
use crate::answer::{self, Reply};
use crate::negotiate;
use crate::shared::Shared;

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

/// The settings of this server that are no secrets.
pub(super) fn flagz(shared: &Shared, page: &Page<'_>) -> Result<Reply, ApiError> {
    let config = &shared.config;
    let (address, port) = config.advertise;
    let flags = [
        ("advertise-address", address.to_string()),
        ("api-audiences", config.issuer.clone()),
        ("secure-port", port.to_string()),
        ("service-account-issuer", config.issuer.clone()),
    ];
    let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    text(page, format!("\nkube-apiserver flags\n{WARNING}\n\n{lines}"))
}

/// Since when it runs, and what it is.
pub(super) fn statusz(shared: &Shared, page: &Page<'_>) -> Result<Reply, ApiError> {
    let up_s = answer::now().duration_since(shared.started).as_secs().max(0);
    let started = shared.started.strftime("%a %b %e %H:%M:%S UTC %Y");
    let (hours, minutes, seconds) = (up_s / 3600, up_s / 60 % 60, up_s % 60);
    let version = KUBERNETES.trim_start_matches('v');
    let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
    let roots: Vec<String> = paths(shared)
        .into_iter()
        .filter(|path| path.matches('/').count() == 1)
        .collect();
    text(
        page,
        format!(
            "\nkube-apiserver statusz\n{WARNING}\n\nStarted: {started}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\n\
             Binary version: {version}\nEmulation version: {minor}\nPaths: {}\n",
            roots.join(" ")
        ),
    )
}

fn text(page: &Page<'_>, body: String) -> Result<Reply, ApiError> {
    let clauses = negotiate::clauses(page.accept);
    let taken = page.accept.is_empty()
        || clauses
            .iter()
            .any(|c| matches!(c.media, "*/*" | "text/*" | "text/plain"));
    if taken {
        return Ok(answer::text(200, body));
    }
    Err(ApiError::not_acceptable(&["text/plain"]))
}
