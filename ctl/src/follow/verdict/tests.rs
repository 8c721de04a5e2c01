//! What is said of objects as they come up, or do not.

use serde_json::json;

use super::*;

fn running(status: Value) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}, "status": status})
}

#[test]
fn a_volume_that_is_not_there() {
    let pod = |state: Value| json!({"metadata": {"uid": "u", "name": "p"}, "status": {"phase": "Pending", "containerStatuses": [{"name": "c", "state": state}]}});
    let scene = Scene {
        events: [event("FailedMount", "configmap \"x\" not found", 1)].into(),
        ..Scene::default()
    };
    let waiting = pod(json!({"waiting": {"reason": "ContainerCreating"}}));
    let cause = "pod p cannot start: configmap \"x\" not found".to_owned();
    assert_eq!(
        pod_failure(&waiting, &scene, false),
        Some(Verdict::Stuck(Failure::plain(cause)))
    );
    assert_eq!(pod_failure(&pod(json!({"running": {}})), &scene, false), None);
}

fn event(reason: &str, message: &str, count: i64) -> (String, Value) {
    (
        message.to_owned(),
        json!({"reason": reason, "message": message, "count": count, "involvedObject": {"uid": "u"}}),
    )
}

#[test]
fn pods() {
    let failed = |cause: &str, log: Option<bool>| {
        Verdict::Failed(Failure {
            cause: cause.into(),
            log: log.map(|previous| ("p".into(), "c".into(), previous)),
        })
    };
    let stuck = |cause: &str| Verdict::Stuck(Failure::plain(cause.into()));
    let cases = [
        (json!({}), vec![], Verdict::Waiting("waiting to be scheduled".into())),
        (json!({"phase": "Pending"}), vec![], Verdict::Waiting("pending".into())),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
            vec![],
            Verdict::Done("ready".into()),
        ),
        (json!({"phase": "Succeeded"}), vec![], Verdict::Done("succeeded".into())),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}),
            vec![],
            stuck("pod p cannot be scheduled: 0/1 nodes"),
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [{"name": "c", "image": "i", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]}),
            vec![],
            failed("pod p: image \"i\" cannot be had: not found", None),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}),
            vec![],
            failed("pod p: container c exited with code 3", Some(true)),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
            vec![],
            failed(
                "pod p: container c used more memory than its limit and was killed",
                Some(false),
            ),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}}]}),
            vec![event("Unhealthy", "Liveness probe failed: no", 3)],
            failed(
                "pod p: container c was restarted: Liveness probe failed: no",
                Some(true),
            ),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]}),
            vec![event("Unhealthy", "Readiness probe failed: 503", 3)],
            stuck("pod p is not ready: Readiness probe failed: 503"),
        ),
        (
            json!({"phase": "Running"}),
            vec![event("Unhealthy", "Readiness probe failed: 503", 1)],
            Verdict::Waiting("running".into()),
        ),
    ];
    for (status, events, expected) in cases {
        let scene = Scene {
            events: events.into_iter().collect(),
            ..Scene::default()
        };
        let pod = running(status);
        assert_eq!(judge("Pod", Some(&pod), false, &scene), expected, "{pod}");
    }
}

#[test]
fn a_new_pod_that_was_restarted_failed() {
    let pod = running(
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}),
    );
    let scene = Scene::default();
    assert!(matches!(judge("Pod", Some(&pod), true, &scene), Verdict::Failed(_)));
    assert!(matches!(judge("Pod", Some(&pod), false, &scene), Verdict::Done(_)));
}

#[test]
fn deployments() {
    let make = |status: Value| json!({"kind": "Deployment", "metadata": {"name": "d", "uid": "d", "generation": 2}, "spec": {"replicas": 3}, "status": status});
    let cases = [
        (
            json!({"observedGeneration": 1}),
            Verdict::Waiting("waiting for the controller".into()),
        ),
        (
            json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 3}),
            Verdict::Waiting("1 of 3 replicas updated".into()),
        ),
        (
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4, "availableReplicas": 3}),
            Verdict::Waiting("3 of 3 replicas available, 1 old to go".into()),
        ),
        (
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
            Verdict::Waiting("2 of 3 replicas available".into()),
        ),
        (
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
            Verdict::Done("3 of 3 replicas available".into()),
        ),
    ];
    for (status, expected) in cases {
        assert_eq!(
            judge("Deployment", Some(&make(status)), false, &Scene::default()),
            expected
        );
    }
}

#[test]
fn only_the_newest_pods_of_a_deployment_count() {
    let set = |uid: &str, revision: &str| {
        json!({"kind": "ReplicaSet", "metadata": {"name": uid, "uid": uid, "ownerReferences": [{"uid": "d"}],
            "annotations": {"deployment.kubernetes.io/revision": revision}}})
    };
    let mut pod = running(
        json!({"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ErrImagePull", "message": "gone"}}}]}),
    );
    pod["metadata"]["ownerReferences"] = json!([{"uid": "old"}]);
    let mut scene = Scene::default();
    scene
        .objects
        .extend([("old".into(), set("old", "9")), ("new".into(), set("new", "10"))]);
    scene.pods.insert("u".into(), pod.clone());
    let deployment = json!({"metadata": {"uid": "d", "generation": 1}, "spec": {"replicas": 1}, "status": {"observedGeneration": 1}});
    assert!(matches!(
        judge("Deployment", Some(&deployment), false, &scene),
        Verdict::Waiting(_)
    ));
    pod["metadata"]["ownerReferences"] = json!([{"uid": "new"}]);
    scene.pods.insert("u".into(), pod);
    assert!(matches!(
        judge("Deployment", Some(&deployment), false, &scene),
        Verdict::Failed(_)
    ));
}
