//! Tables: claims, classes and slices, and what they are refused for.

use super::super::Rules;
use super::{Device, ResourceClaim};
use serde_json::{Value, json};

fn said(errors: &[crate::field::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn object(spec: &Value) -> Value {
    json!({"metadata": {"name": "x", "namespace": "n"}, "spec": spec})
}

fn claim(devices: &Value) -> Value {
    let mut obj = object(&json!({"devices": devices}));
    ResourceClaim.default(&mut obj);
    ResourceClaim.prepare_create(&mut obj);
    obj
}

#[test]
fn claims() {
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c"}});
    let not_there =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let at = "spec.devices";
    let rows = [
        (json!({"requests": [request]}), vec![]),
        (
            json!({"requests": [request], "constraints": [{"requests": ["r"], "matchAttribute": "a.b/c"}]}),
            vec![],
        ),
        (
            json!({"requests": [request, request]}),
            vec![format!("{at}.requests[1]: Duplicate value: \"r\"")],
        ),
        (
            json!({"requests": [{"name": "r"}]}),
            vec![format!(
                "{at}.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"
            )],
        ),
        (
            json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 2}}]}),
            vec![format!(
                "{at}.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"
            )],
        ),
        (
            json!({"requests": [{"name": "r", "exactly": {"selectors": [{}], "tolerations": [{"operator": "Exists", "value": "v"}]}}]}),
            vec![
                format!("{at}.requests[0].exactly.deviceClassName: Required value"),
                format!("{at}.requests[0].exactly.selectors[0].cel: Required value"),
                format!(
                    "{at}.requests[0].exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`"
                ),
            ],
        ),
        (
            json!({"requests": [request], "constraints": [{"requests": ["r/s"], "matchAttribute": "c"}]}),
            vec![
                format!("{at}.constraints[0].requests[0]: Invalid value: \"r/s\": {not_there}"),
                format!(
                    "{at}.constraints[0].matchAttribute: Invalid value: \"c\": a fully qualified name must be a domain and a name separated by a slash"
                ),
            ],
        ),
        (
            json!({"requests": [request], "config": [{"opaque": {"driver": "d.e", "parameters": [1]}}, {}]}),
            vec![
                format!(
                    "{at}.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"
                ),
                format!("{at}.config[1].opaque: Required value"),
            ],
        ),
    ];
    for (devices, expected) in rows {
        assert_eq!(said(&ResourceClaim.validate(&claim(&devices))), expected, "{devices}");
    }
}

#[test]
fn claim_statuses() {
    let old = claim(&json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}));
    let result = |device: &str| json!({"request": "r", "driver": "d.e", "pool": "p", "device": device});
    let allocation = |device: &str| json!({"devices": {"results": [result(device)]}});
    let user = json!({"resource": "pods", "name": "x", "uid": "1"});
    let rows = [
        (json!({"allocation": allocation("a"), "reservedFor": [user]}), json!({}), vec![]),
        (
            json!({"reservedFor": [user]}),
            json!({}),
            vec!["status.reservedFor: Forbidden: may not be specified when `allocated` is not set".to_owned()],
        ),
        (
            json!({"allocation": allocation("a"), "devices": [{"driver": "d.e", "pool": "p", "device": "b"}]}),
            json!({}),
            vec!["status.devices[0]: Invalid value: {\"Device\":\"b\",\"Driver\":\"d.e\",\"Pool\":\"p\",\"ShareID\":\"\"}: must be an allocated device in the claim".to_owned()],
        ),
        (
            json!({"allocation": {"devices": {"results": [{"request": "q", "driver": "d.e", "pool": "p", "device": "a"}]}}}),
            json!({}),
            vec!["status.allocation.devices.results[0].request: Invalid value: \"q\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'".to_owned()],
        ),
    ];
    for (status, was, expected) in rows {
        let (mut new, mut old) = (old.clone(), old.clone());
        new["status"] = status.clone();
        old["status"] = was;
        assert_eq!(
            said(&ResourceClaim.check_update(&new, &old, Some("status"))),
            expected,
            "{status}"
        );
    }
}

#[test]
fn slices() {
    let base = |rest: Value| {
        let mut spec = json!({"driver": "d.e", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}});
        for (key, value) in rest.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": "x"}, "spec": spec})
    };
    let only = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let rows = [
        (json!({"devices": [{"name": "a", "attributes": {"v": {"version": "1.2.3-rc.1"}}}]}), vec![]),
        (json!({"pool": {"name": "p"}}), vec!["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero".to_owned()]),
        (json!({"nodeName": null}), vec![format!("spec: Required value: {only}")]),
        (
            json!({"allNodes": true}),
            vec![format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {only}, but multiple fields are set")],
        ),
        (json!({"devices": [{"name": "a"}, {"name": "a"}]}), vec!["spec.devices[1]: Duplicate value: \"a\"".to_owned()]),
        (
            json!({"devices": [{"name": "a", "attributes": {"x/y/z": {}, "v": {"version": "01.2.3"}}}]}),
            vec![
                "spec.devices[0].attributes[v].version: Invalid value: \"01.2.3\": must be a string compatible with semver.org spec 2.0.0".to_owned(),
                "spec.devices[0].attributes: Invalid value: \"x/y/z\": must not contain more than one slash".to_owned(),
                "spec.devices[0].attributes[x/y/z]: Invalid value: \"\": exactly one value must be specified".to_owned(),
            ],
        ),
        (
            json!({"devices": [{"name": "a", "allowMultipleAllocations": true, "capacity": {"m": {"value": "10", "requestPolicy": {
                "default": "3", "validRange": {"min": "4", "max": "12", "step": "5"}}}}}]}),
            vec![
                "spec.devices[0].capacity[m].requestPolicy.validRange.min: Invalid value: \"3\": default is less than min: 4".to_owned(),
                "spec.devices[0].capacity[m].requestPolicy.validRange.max: Invalid value: \"12\": max is larger than capacity value: 10".to_owned(),
                "spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (5) from (4)".to_owned(),
                "spec.devices[0].capacity[m].requestPolicy.validRange.step: Invalid value: \"12\": value is not a multiple of a given step (5) from (4)".to_owned(),
            ],
        ),
        (
            json!({"devices": [{"name": "a", "allowMultipleAllocations": true, "capacity": {"m": {"value": "10", "requestPolicy": {
                "default": "3", "validValues": ["2", "1", "20"]}}}}]}),
            vec![
                "spec.devices[0].capacity[m].requestPolicy.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order".to_owned(),
                "spec.devices[0].capacity[m].requestPolicy.validValues[2]: Invalid value: \"20\": option is larger than capacity value: 10".to_owned(),
                "spec.devices[0].capacity[m].requestPolicy.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy".to_owned(),
            ],
        ),
        (
            json!({"devices": [{"name": "a", "taints": [{"key": "k"}], "nodeName": "n"}]}),
            vec![
                "spec.devices[0].taints[0].effect: Required value".to_owned(),
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec".to_owned(),
            ],
        ),
    ];
    let rules = Device { slice: true };
    for (rest, expected) in rows {
        assert_eq!(said(&rules.validate(&base(rest.clone()))), expected, "{rest}");
    }
    let moved = rules.check_update(&base(json!({"nodeName": "m"})), &base(json!({})), None);
    assert_eq!(
        said(&moved),
        ["spec.nodeName: Invalid value: \"m\": field is immutable"]
    );
}
