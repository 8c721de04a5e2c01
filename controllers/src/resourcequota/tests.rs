use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::plan::{add, counted, questions, status};

#[test]
fn what_has_to_be_known() {
    let check = |spec: Value, expected: &[(&str, &str, bool)]| {
        let quota = json!({"spec": spec});
        let asked = questions(&quota);
        let asked: Vec<(&str, &str, bool)> = asked
            .iter()
            .map(|q| (q.group.as_str(), q.plural.as_str(), q.count_only))
            .collect();
        assert_eq!(asked, expected, "{quota}");
    };
    check(
        json!({"hard": {"secrets": "1", "count/secrets": "1"}}),
        &[("", "secrets", true)],
    );
    check(json!({"hard": {"count/jobs.batch": "1"}}), &[("batch", "jobs", true)]);
    check(json!({"hard": {"count/pods": "1"}}), &[("", "pods", true)]);
    check(
        json!({"hard": {"count/pods": "1", "pods": "1"}}),
        &[("", "pods", false)],
    );
    check(
        json!({"hard": {"services": "1", "services.nodeports": "1"}}),
        &[("", "services", false)],
    );
    check(
        json!({"hard": {"secrets": "1", "count/pods": "1"}, "scopes": ["BestEffort"]}),
        &[("", "pods", false)],
    );
    check(
        json!({"hard": {"persistentvolumeclaims": "1"}, "scopes": ["VolumeAttributesClass"]}),
        &[("", "persistentvolumeclaims", false)],
    );
}

#[test]
fn statuses() {
    let pod = |class: &str, cpu: &str| {
        json!({"spec": {"priorityClassName": class,
            "containers": [{"resources": {"requests": {"cpu": cpu}}}]}})
    };
    let quota = json!({
        "spec": {"hard": {"cpu": "2", "pods": "5"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}},
        "status": {}});
    let asked = questions(&quota);
    let mut used = BTreeMap::new();
    for question in &asked {
        add(
            &mut used,
            &quota,
            question,
            &[pod("high", "500m"), pod("low", "1"), pod("high", "1")],
        );
    }
    let expected = json!({"hard": {"cpu": "2", "pods": "5"}, "used": {"cpu": "1500m", "pods": "2"}});
    assert_eq!(status(&quota, &used), Some(expected.clone()));
    let mut written = quota.clone();
    written["status"] = expected;
    assert_eq!(status(&written, &used), None, "nothing to do twice");

    let quota = json!({"spec": {"hard": {"configmaps": "3", "count/deployments.apps": "1"}}});
    let mut used = BTreeMap::new();
    for question in questions(&quota) {
        counted(&mut used, &question, 4);
    }
    let expected = json!({"hard": {"configmaps": "3", "count/deployments.apps": "1"},
        "used": {"configmaps": "4", "count/deployments.apps": "4"}});
    assert_eq!(status(&quota, &used), Some(expected));
}
