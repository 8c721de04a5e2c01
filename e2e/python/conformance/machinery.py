"""[sig-api-machinery]: discovery, kinds of the API itself, watches, pages, tables, field validation."""

import json
import pathlib
import re
import threading
import urllib.parse

from server import PROTOBUF, holds, name_of, object_of, of_group, pod, pods_of

REQUEST = (pathlib.Path(__file__).parents[2] / "tests/kubectl/cluster.yaml").read_text().split("request: ")[1].strip()
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
RESOURCES = """
    v1/namespaces admissionregistration.k8s.io/v1/validatingwebhookconfigurations apiextensions.k8s.io/v1/customresourcedefinitions
    apiregistration.k8s.io/v1/apiservices apps/v1/deployments authentication.k8s.io/v1/tokenreviews batch/v1/jobs
    authorization.k8s.io/v1/selfsubjectaccessreviews autoscaling/v1/horizontalpodautoscalers autoscaling/v2/horizontalpodautoscalers
    certificates.k8s.io/v1/certificatesigningrequests coordination.k8s.io/v1/leases discovery.k8s.io/v1/endpointslices
    events.k8s.io/v1/events networking.k8s.io/v1/ingresses node.k8s.io/v1/runtimeclasses policy/v1/poddisruptionbudgets
    scheduling.k8s.io/v1/priorityclasses storage.k8s.io/v1/csinodes""".split()


@holds("server version should find the server version")
def version(server, _):
    found = server.get("/version")
    assert re.fullmatch(r"[1-9][0-9]*", found["major"]) and re.fullmatch(r"[0-9]+\+?.*", found["minor"]), found


@holds("Discovery should validate PreferredVersion for each APIGroup")
def preferred_versions(server, _):
    groups = server.get("/apis/")["groups"]
    assert groups
    for group in groups:
        found = server.get(f"/apis/{group['name']}/")
        assert found["preferredVersion"]["groupVersion"] in {v["groupVersion"] for v in found["versions"]}, found


@holds("Discovery should locate the groupVersion and a resource within each APIGroup")
def resources_of_groups(server, _):
    for resource in RESOURCES:
        version, plural = resource.rsplit("/", 1)
        found = server.get(f"/api/{version}" if version == "v1" else f"/apis/{version}")
        assert found["groupVersion"] == version and plural in {r["name"] for r in found["resources"]}, resource


def aggregated(server, header):
    found = set()
    for path in ("/api", "/apis"):
        answer = server.open("GET", path, headers={"Accept": header})
        kind = answer.headers["content-type"]
        assert answer.status == 200 and "as=APIGroupDiscoveryList" in kind and "v=v2" in kind.split(";"), kind
        for group in json.loads(answer.read())["items"]:
            for version in group["versions"]:
                prefix = f"{group['metadata']['name']}/" if "name" in group["metadata"] else ""
                found |= {f"{prefix}{version['version']}/{r['resource']}" for r in version["resources"]}
    return found


@holds("AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers", AGGREGATED)
@holds("AggregatedDiscovery should support aggregated discovery interface",
       f"{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")
def aggregated_discovery(server, _, header):
    assert set(RESOURCES) <= aggregated(server, header), set(RESOURCES) - aggregated(server, header)


def rules():
    return [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]


def made_known(server, _, group, *plurals):
    """A group is in the discovery documents with these resources."""
    assert group in {g["name"] for g in server.get("/apis")["groups"]}
    assert "v1" in {v["version"] for v in server.get(f"/apis/{group}")["versions"]}
    assert set(plurals) <= {r["name"] for r in server.get(f"/apis/{group}/v1")["resources"]}


FLOWS, ADMISSION = "flowcontrol.apiserver.k8s.io", "admissionregistration.k8s.io"
HOOKS = "AdmissionWebhook [Privileged:ClusterAdmin] should"
holds(f"{HOOKS} include webhook resources in discovery documents", ADMISSION, "mutatingwebhookconfigurations", "validatingwebhookconfigurations")(made_known)
holds("CustomResourceDefinition resources [Privileged:ClusterAdmin] should include custom resource definition resources in discovery documents",
      "apiextensions.k8s.io", "customresourcedefinitions")(made_known)


@holds(f"{HOOKS} be able to create and update mutating webhook configurations with match conditions", "Mutating")
@holds(f"{HOOKS} be able to create and update validating webhook configurations with match conditions", "Validating")
def match_conditions(server, ns, word):
    namespace, path = name_of(ns), f"/apis/{ADMISSION}/v1/{word.lower()}webhookconfigurations"
    conditions = [{"name": f"expression-{n}", "expression": f"object.metadata.namespace == '{n}'"} for n in ("production", "staging")]
    service = {"namespace": namespace, "name": "e2e-test-webhook", "path": "/always-allow-delay-5s", "port": 8443}
    selector = {"matchLabels": {namespace: "true"}}
    hooks = lambda conditions: [{
        "name": "hook-with-match-conditions.k8s.io", "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"], "rules": rules(),
        "clientConfig": {"service": service}, "namespaceSelector": selector, "objectSelector": selector, "matchConditions": conditions}]
    server.create(path, f"{word}WebhookConfiguration", namespace, webhooks=hooks(conditions[:1]))
    assert server.get(f"{path}/{namespace}")["webhooks"][0]["matchConditions"] == conditions[:1]
    server.update(f"{path}/{namespace}", lambda now: now.update(webhooks=hooks(conditions)))
    assert server.get(f"{path}/{namespace}")["webhooks"][0]["matchConditions"] == conditions
    server.delete(f"{path}/{namespace}")


def condition(kind):
    return {"type": kind, "status": "False", "reason": "E2E", "message": "Set from a test", "lastTransitionTime": "2026-01-01T00:00:00Z"}


KINDS = {
    "API priority and fairness should support FlowSchema API operations": (
        f"{FLOWS}/v1", "FlowSchema", "flowschemas", ["status"], {"matchingPrecedence": 9999},
        {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"}, "distinguisherMethod": {"type": "ByUser"},
         "rules": [{"subjects": [{"kind": "User", "user": {"name": "nobody-at-all"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}),
    "API priority and fairness should support PriorityLevelConfiguration API operations": (
        f"{FLOWS}/v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", ["status"], {"limited": {"nominalConcurrencyShares": 4}},
        {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}),
    "ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations": (
        f"{ADMISSION}/v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", ["status"], {"failurePolicy": "Ignore"},
        {"validations": [{"expression": "object.spec.replicas <= 100"}], "matchConstraints": {"resourceRules": rules()}}),
    "ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations": (
        f"{ADMISSION}/v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", [], {"validationActions": ["Warn"]},
        {"policyName": "replicalimit-policy.example.com", "validationActions": ["Deny"]}),
    "MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicy API operations": (
        f"{ADMISSION}/v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", [], {"failurePolicy": "Ignore"},
        {"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": rules()}, "mutations": [{
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": 'Object{metadata: Object.metadata{annotations: {"my-foo-annotation": "myAnnotationValue"}}}'}}]}),
    "MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicyBinding API operations": (
        f"{ADMISSION}/v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", [], {},
        {"policyName": "replicalimit-policy.example.com"}),
}


def operations(server, ns, group, kind, plural, subresources, changes, spec):
    """Discovery and every verb of a kind of the whole cluster."""
    made_known(server, ns, group.split("/")[0], plural, *(f"{plural}/{s}" for s in subresources))
    path, mine = f"/apis/{group}/{plural}", f"labelSelector=made-in%3D{name_of(ns)}"
    for _ in range(3):
        made = server.create(path, kind, "e2e-example-", metadata={"labels": {"made-in": name_of(ns)}}, spec=spec)
    one = f"{path}/{made['metadata']['name']}"
    assert server.get(one)["metadata"]["uid"] == made["metadata"]["uid"]
    found = server.get(f"{path}?{mine}")
    assert len(found["items"]) == 3
    stream = server.open("GET", f"{path}?watch=1&{mine}&resourceVersion={found['metadata']['resourceVersion']}")
    patched = server.patch(one, {"metadata": {"annotations": {"patched": "true"}}, "spec": changes})
    assert patched["metadata"]["annotations"]["patched"] == "true"
    assert int(patched["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    for field, value in changes.items():
        now = patched["spec"][field]
        assert now == value or value.items() <= now.items(), (field, now)
    updated = server.update(one, lambda now: (now["metadata"]["annotations"].update(updated="true"), now["spec"].update(spec)))
    assert updated["metadata"]["annotations"]["updated"] == "true"
    while True:
        event = json.loads(stream.readline())
        assert event["type"] == "MODIFIED", event
        if event["object"]["metadata"].get("annotations", {}).get("patched") == "true":
            break
    stream.close()
    for subresource in subresources:
        at = f"{one}/{subresource}"
        now = server.get(at)
        assert (now["apiVersion"], now["kind"], now["metadata"]["uid"]) == (group, kind, made["metadata"]["uid"]), now
        now = server.patch(at, {"status": {"conditions": [condition("PatchStatusFailed")]}})
        assert "PatchStatusFailed" in {c["type"] for c in now["status"]["conditions"]}
        now = server.update(one, lambda now: now["status"]["conditions"].append(condition("StatusUpdateFailed")), f"/{subresource}")
        assert {"PatchStatusFailed", "StatusUpdateFailed"} <= {c["type"] for c in now["status"]["conditions"]}
    server.delete(one)
    assert server.open("GET", one).status == 404
    assert len(server.get(f"{path}?{mine}")["items"]) == 2
    server.delete(f"{path}?{mine}")
    assert not server.get(f"{path}?{mine}")["items"]


for description, row in KINDS.items():
    holds(description, *row)(operations)


def configmap(server, path, name, label, **fields):
    return server.create(path, "ConfigMap", name, metadata={"labels": {"watch": label}}, **fields)


def seen(events):
    return [(t, o["metadata"]["name"], o.get("data", {}).get("mutation")) for t, o in events]


@holds("Watchers should observe add, update, and delete watch notifications on configmaps")
def watches_by_label(server, ns):
    path = f"{ns}/configmaps"
    streams = {label: server.open("GET", f"{path}?watch=1&labelSelector=watch+in+({label})") for label in ("a", "b", "a,b")}
    configmap(server, path, "one", "a")
    for number in ("1", "2"):
        server.update(f"{path}/one", lambda now: now.update(data={"mutation": number}))
    server.delete(f"{path}/one")
    configmap(server, path, "two", "b")
    server.delete(f"{path}/two")
    one = [("ADDED", "one", None), ("MODIFIED", "one", "1"), ("MODIFIED", "one", "2"), ("DELETED", "one", "2")]
    two = [("ADDED", "two", None), ("DELETED", "two", None)]
    for label, expected in (("a", one), ("b", two), ("a,b", one + two)):
        events = [json.loads(streams[label].readline()) for _ in expected]
        assert seen((e["type"], e["object"]) for e in events) == expected, (label, events)


def life(server, path, label="a"):
    """The versions that one ConfigMap had: made, changed twice, deleted."""
    made = [configmap(server, path, "life", label)]
    made += [server.update(f"{path}/life", lambda now: now.update(data={"mutation": number})) for number in ("1", "2")]
    server.delete(f"{path}/life")
    return [found["metadata"]["resourceVersion"] for found in made]


@holds("Watchers should be able to start watching from a specific resource version")
def watch_from_a_version(server, ns):
    version = life(server, f"{ns}/configmaps")[1]
    events = server.watch(f"{ns}/configmaps?watch=1&labelSelector=watch%3Da&resourceVersion={version}", count=2)
    assert seen(events) == [("MODIFIED", "life", "2"), ("DELETED", "life", "2")], events


@holds("Watchers should be able to restart watching from the last resource version observed by the previous watch")
def watch_again(server, ns):
    query = f"{ns}/configmaps?watch=1&labelSelector=watch%3Da"
    start = server.get(f"{ns}/configmaps")["metadata"]["resourceVersion"]
    life(server, f"{ns}/configmaps")
    first = server.watch(f"{query}&resourceVersion={start}", count=2)
    last = first[-1][1]["metadata"]["resourceVersion"]
    rest = server.watch(f"{query}&resourceVersion={last}", count=2)
    assert seen(first + rest) == [("ADDED", "life", None), ("MODIFIED", "life", "1"), ("MODIFIED", "life", "2"), ("DELETED", "life", "2")]


@holds("Watchers should observe an object deletion if it stops meeting the requirements of the selector")
def watch_selector_transitions(server, ns):
    path = f"{ns}/configmaps"
    stream = server.open("GET", f"{path}?watch=1&labelSelector=watch%3Da")
    configmap(server, path, "moves", "a")
    change = lambda number, label: server.update(f"{path}/moves", lambda now: (now.update(data={"mutation": number}), now["metadata"]["labels"].update(watch=label)))
    for number, label in (("1", "a"), ("1", "other"), ("2", "other"), ("2", "a"), ("3", "a")):
        change(number, label)
    server.delete(f"{path}/moves")
    expected = [("ADDED", None), ("MODIFIED", "1"), ("DELETED", "1"), ("ADDED", "2"), ("MODIFIED", "3"), ("DELETED", "3")]
    events = [json.loads(stream.readline()) for _ in expected]
    assert [(e["type"], e["object"].get("data", {}).get("mutation")) for e in events] == expected, events


@holds("Watchers should receive events on concurrent watches in same order")
def watches_in_the_same_order(server, ns):
    path, changes = f"{ns}/configmaps", 60
    start = server.get(path)["metadata"]["resourceVersion"]

    def produce():
        for number in range(changes // 3):
            configmap(server, path, f"name-{number}", "order")
            server.update(f"{path}/name-{number}", lambda now: now.update(data={"mutation": "1"}))
            server.delete(f"{path}/name-{number}")

    producer = threading.Thread(target=produce)
    producer.start()
    first = server.open("GET", f"{path}?watch=1&labelSelector=watch%3Dorder&resourceVersion={start}")
    versions = [json.loads(first.readline())["object"]["metadata"]["resourceVersion"] for _ in range(changes)]
    producer.join()
    assert versions == sorted(versions, key=int)
    for number, version in enumerate(versions[:-1]):
        rest = server.watch(f"{path}?watch=1&labelSelector=watch%3Dorder&resourceVersion={version}", count=changes - number - 1)
        assert [o["metadata"]["resourceVersion"] for _, o in rest] == versions[number + 1:], version


@holds("Servers with support for API chunking should return chunks of results for list calls")
def chunks(server, ns):
    path, whole = f"{ns}/podtemplates", 100
    for number in range(whole):
        server.create(path, "PodTemplate", f"template-{number:04}", template=pod())
    for limits in ((17,), (1, 40), (7, 3, 29)):
        found, version, query, turn = [], None, "", 0
        while query is not None:
            limit = limits[turn % len(limits)]
            page = server.get(f"{path}?limit={limit}{query}")
            turn, metadata = turn + 1, page["metadata"]
            found += [item["metadata"]["name"] for item in page["items"]]
            version = version or metadata["resourceVersion"]
            assert len(page["items"]) <= limit and metadata["resourceVersion"] == version, metadata
            rest = metadata.get("continue")
            assert metadata.get("remainingItemCount") == (whole - len(found) if rest else None), metadata
            query = f"&continue={urllib.parse.quote(rest)}" if rest else None
        assert found == [f"template-{number:04}" for number in range(whole)], found
    assert len(server.get(f"{path}?limit={whole + 1}")["items"]) == whole


@holds("Servers with support for Table transformation should return a 406 for a backend which does not implement metadata")
def reviews_have_no_table(server, _):
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = object_of(path, "SelfSubjectAccessReview", "", spec={"nonResourceAttributes": {"path": "/", "verb": "get"}})
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    assert server.call("POST", path, review, want=406, headers=table)["reason"] == "NotAcceptable"
    sent = server.call("POST", path, review, headers={"Accept": PROTOBUF})
    assert server.call("POST", path, sent, want=406, headers={**table, "Content-Type": PROTOBUF})["code"] == 406


FIELDS = {
    "FieldValidation should detect unknown and duplicate fields of a typed object": (
        '"replicas": 1', '"unknownField": "foo", "replicas": 2, "replicas": 3',
        'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"'),
    "FieldValidation should detect unknown metadata fields of a typed object": (
        '"name": "my-dep"', '"name": "my-dep", "unknownMeta": "foo"', 'strict decoding error: unknown field "metadata.unknownMeta"'),
}


def fields_are_validated(server, ns, text, instead, message):
    path = of_group(ns, "apps/v1") + "/deployments"
    body = json.dumps(object_of(path, "Deployment", "my-dep", **pods_of({"app": "nginx"}, 1, matchLabels={"app": "nginx"})))
    assert text in body
    # The client of that description sends no Content-Type.
    query = "?fieldManager=field_validation_mgr&fieldValidation=Strict"
    said = server.call("POST", path + query, body.replace(text, instead), want=400, headers={"Content-Type": None})
    assert message in said["message"], said


for description, row in FIELDS.items():
    holds(description, *row)(fields_are_validated)
