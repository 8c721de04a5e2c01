//! `ctl certificate approve` and `deny`: the answer to a certificate signing request.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::change::Change;
use crate::context::Ctx;
use crate::pods::{list, text};
use crate::resources::Resources;
use crate::targets::Which;

#[derive(Args)]
pub struct Certificate {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand)]
pub enum What {
    /// Let the request be signed
    Approve(Answer),
    /// Refuse the request
    Deny(Answer),
}

#[derive(Args)]
pub struct Answer {
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// Answer again what has the same answer already
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: Change,
}

/// Runs the command.
///
/// # Errors
/// The server's answer.
pub async fn run(ctx: &Ctx, args: &Certificate) -> Result<ExitCode> {
    let (answer, kind, done) = match &args.what {
        What::Approve(answer) => (answer, "Approved", "approved"),
        What::Deny(answer) => (answer, "Denied", "denied"),
    };
    let mut words = answer.names.clone();
    if !answer.which.files.given() {
        words.insert(0, "certificatesigningrequests.certificates.k8s.io".to_owned());
    }
    let resources = Resources::discover(ctx).await?;
    let printer = answer.change.printer()?;
    let found = answer.which.objects(ctx, &resources, &words, false).await?;
    for (resource, object) in &found.objects {
        let object = match answered(object, kind, &jiff::Timestamp::now().to_string()) {
            Some(answered) if !answer.change.client_only() => {
                let path = resource.object("", text(object, "/metadata/name"));
                let path = answer.change.query(&format!("{path}/approval"), "ctl-certificate");
                ctx.call(Method::PUT, &path, &[], Some(&answered)).await?
            }
            Some(answered) => answered,
            None => object.clone(),
        };
        printer.changed(resource, done, &object)?;
    }
    Ok(if found.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The request with the answer; nothing when it has that answer already.
fn answered(request: &Value, kind: &str, now: &str) -> Option<Value> {
    if list(request, "/status/conditions")
        .iter()
        .any(|condition| condition["type"] == kind)
    {
        return None;
    }
    let mut request = request.clone();
    let mut conditions = list(&request, "/status/conditions").to_vec();
    conditions.push(json!({"type": kind, "status": "True", "reason": format!("Ctl{kind}"),
        "message": format!("{kind} with ctl certificate."), "lastUpdateTime": now}));
    request["status"]["conditions"] = Value::Array(conditions);
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_once() {
        let request = json!({"metadata": {"name": "x"}, "status": {}});
        let approved = answered(&request, "Approved", "2026-01-01T00:00:00Z").expect("an answer");
        assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
        assert_eq!(answered(&approved, "Approved", "2026-01-01T00:00:00Z"), None);
    }
}
