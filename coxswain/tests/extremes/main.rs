//! Every number, duration, quantity and time of every kind at its extremes, with all controllers and the scheduler:
//! whatever the server accepts, nobody panics, and everybody still does the work of others afterwards.
//!
//! The fields come from the schema. `COXSWAIN_EXTREMES=all` tries all of them; by default an even sample that takes
//! seconds, another one with `COXSWAIN_EXTREMES=7` (any number).

mod canaries;
mod cluster;
mod objects;

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use cluster::Cluster;
use coxswain_api::schema::extremes;

/// Objects and statuses that are tried by default.
const SAMPLE: usize = 900;

/// What to try: the object of a kind with one field changed.
struct Case {
    collection: String,
    label: String,
    object: Value,
    /// It is a patch of the status of an object that exists.
    status_of: Option<String>,
}

/// Every case of every kind, in the order of the kinds.
fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for base in objects::bases() {
        for (number, change) in extremes::changes(base.type_name, &base.object).into_iter().enumerate() {
            let label = format!("{} {} = {}", base.collection, change.field, change.value);
            let mut object = change.object;
            let status_of = change.field.starts_with(".status").then(|| base.name().to_owned());
            if change.field.starts_with(".metadata") {
                continue;
            } else if status_of.is_some() {
                object = json!({"status": object["status"]});
            } else {
                object["metadata"]["name"] = json!(format!("{}-{number}", base.name()));
            }
            out.push(Case {
                collection: base.collection.to_owned(),
                label,
                object,
                status_of,
            });
        }
    }
    out
}

/// All of them, or every n-th from a place that the environment names.
fn sample(all: Vec<Case>) -> Vec<Case> {
    let wish = std::env::var("COXSWAIN_EXTREMES").unwrap_or_default();
    if wish == "all" {
        return all;
    }
    let step = (all.len() / SAMPLE).max(1);
    let first = wish.parse::<usize>().unwrap_or(0) % step;
    all.into_iter().skip(first).step_by(step).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extremes_of_every_field_leave_everybody_working() {
    let cluster = Cluster::start().await;
    cluster.prepare().await;
    let mut accepted: BTreeMap<String, u32> = BTreeMap::new();
    let all = cases();
    let (known, cases) = (all.len(), sample(all));
    for base in objects::bases() {
        let (code, answer) = cluster.send(Method::POST, base.collection, &base.object).await;
        assert!(
            code == 201 || code == 409,
            "{} as it is: {code} {answer}",
            base.collection
        );
    }
    for case in &cases {
        let (code, answer) = match &case.status_of {
            Some(name) => {
                let path = format!("{}/{name}/status", case.collection);
                cluster.send(Method::PATCH, &path, &case.object).await
            }
            None => cluster.send(Method::POST, &case.collection, &case.object).await,
        };
        assert!(code < 500, "{}: {code} {answer}", case.label);
        if code < 300 {
            *accepted.entry(case.collection.clone()).or_default() += 1;
        }
    }
    println!("{} of {known} cases, accepted: {accepted:?}", cases.len());
    let sum: u32 = accepted.values().sum();
    assert!(sum > 100, "the cases hardly reach anybody: {accepted:?}");
    canaries::all(&cluster).await;
    cluster.assert_healthy().await;
    cluster.stop().await;
}

/// The five Jobs of the report: no worker of the Job controller lived on, also after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_jobs_with_the_longest_deadline_do_not_stop_the_others() {
    let cluster = Cluster::start().await;
    cluster.prepare().await;
    for (field, value) in [
        ("activeDeadlineSeconds", i64::MAX),
        ("ttlSecondsAfterFinished", i64::from(i32::MAX)),
    ] {
        for number in 0..5 {
            let mut job = objects::job(&format!("{}-{number}", field.to_lowercase()));
            job["spec"][field] = json!(value);
            let (code, answer) = cluster
                .send(Method::POST, "/apis/batch/v1/namespaces/extremes/jobs", &job)
                .await;
            assert_eq!(code, 201, "{field}: {answer}");
        }
    }
    tokio::time::timeout(Duration::from_secs(30), canaries::job(&cluster))
        .await
        .expect("another Job completes");
    cluster.assert_healthy().await;
    cluster.stop().await;
}

/// A task that does not run is named by both checks; the API server itself is not at fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_down_is_named_by_the_checks() {
    let cluster = Cluster::start().await;
    let token = tokio_util::sync::CancellationToken::new();
    let (supervisor, stop) = (cluster.supervisor(), token.clone());
    let task = tokio::spawn(async move {
        supervisor
            .once("controllers/canary", &stop, async { panic!("a defect") })
            .await
    });
    for page in ["/readyz", "/livez"] {
        cluster
            .until(page, |(code, text)| {
                *code == 500 && text.contains("[-]controllers/canary failed: reason withheld\n")
            })
            .await;
        let (code, text) = cluster.page(&format!("{page}/controllers/canary")).await;
        assert_eq!((code, text.contains("it panicked: a defect")), (500, true), "{text}");
        let (code, _) = cluster.page(&format!("{page}/controllers/job")).await;
        assert_eq!(code, 200);
    }
    let (_, metrics) = cluster.page("/metrics").await;
    assert!(metrics.contains("coxswain_task_panics_total{task=\"controllers/canary\"} 1\n"));
    token.cancel();
    task.await.expect("it ends when it is told to");
    cluster.until("/readyz", |(code, _)| *code == 200).await;
    cluster.stop().await;
}
