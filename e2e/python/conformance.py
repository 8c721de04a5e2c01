"""What Kubernetes' conformance descriptions ask of an API server with its controllers, on a server without nodes.

    conformance.py KUBECONFIG [NAME...]

Each function holds one description (or a few that say the same of several kinds). Python's standard library only; the
kubeconfig is read through `kubectl config view`. Prints what does not hold; the last line is `N hold, N do not`.
"""

import base64
import http.client
import json
import pathlib
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.parse

LIMIT_S = 20
HERE = pathlib.Path(__file__).resolve().parent
TESTS = []


def holds(test):
    TESTS.append(test)
    return test


class Server:
    def __init__(self, kubeconfig, headers=None):
        text = subprocess.run(["kubectl", "config", "view", "--raw", "--minify", "-o", "json", "--kubeconfig", kubeconfig],
                              capture_output=True, text=True, check=True).stdout
        config = json.loads(text)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.address = urllib.parse.urlparse(cluster["server"]).netloc
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.tls.load_cert_chain(pair.name)
        self.headers = headers or {}

    def acting_as(self, user):
        other = object.__new__(Server)
        other.__dict__.update(self.__dict__, headers={"Impersonate-User": user})
        return other

    def open(self, method, path, body=None, headers=None):
        connection = http.client.HTTPSConnection(self.address, context=self.tls, timeout=LIMIT_S)
        sent = {"Content-Type": "application/json", **self.headers, **(headers or {})}
        connection.request(method, path, json.dumps(body) if body is not None else None, sent)
        return connection.getresponse()

    def call(self, method, path, body=None, want=(200, 201, 202), headers=None):
        answer = self.open(method, path, body, headers)
        text = answer.read()
        assert answer.status in (want if isinstance(want, tuple) else (want,)), f"{method} {path}: {answer.status} {text[:400]}"
        return json.loads(text) if text[:1] == b"{" else text

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def create(self, path, kind, name, **fields):
        group = path.split("/")[2] + "/" + path.split("/")[3] if path.startswith("/apis") else "v1"
        metadata = {"name": name, **fields.pop("metadata", {})}
        return self.call("POST", path, {"apiVersion": group, "kind": kind, "metadata": metadata, **fields})

    def patch(self, path, body, kind="merge-patch"):
        return self.call("PATCH", path, body, headers={"Content-Type": f"application/{kind}+json"})

    def delete(self, path, **options):
        return self.call("DELETE", path, options or None)

    def gone(self, path):
        until(lambda: self.open("GET", path).status == 404, f"{path} gone")

    def watch(self, path, count):
        """The types and objects of the next `count` events."""
        answer = self.open("GET", path)
        assert answer.status == 200, answer.read()
        events = [json.loads(answer.readline()) for _ in range(count)]
        answer.close()
        return [(event["type"], event["object"]) for event in events]


def until(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def pod(**spec):
    return {"spec": {"containers": [{"name": "main", "image": "none", **spec.pop("container", {})}], **spec}}


def pods_of(app, replicas, **selector):
    template = {"metadata": {"labels": {"app": app}}, **pod()}
    return {"spec": {"replicas": replicas, "selector": selector or {"app": app}, "template": template}}


def names(found):
    return {item["metadata"]["name"] for item in found["items"]}


@holds
def discovery(server, _):
    """Aggregated discovery, its Accept headers, and every group's preferred version and resources."""
    groups = server.get("/apis")["groups"]
    for group in groups:
        version = group["preferredVersion"]
        assert version in group["versions"], group
        found = server.get(f"/apis/{version['groupVersion']}")
        assert found["groupVersion"] == version["groupVersion"] and found["resources"], found
        assert server.get(f"/apis/{group['name']}")["name"] == group["name"]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    for path, least in (("/api", {"pods", "services"}), ("/apis", {"deployments", "flowschemas", "certificatesigningrequests"})):
        for header in (accept, accept + ",application/json"):
            answer = server.open("GET", path, headers={"Accept": header})
            assert "as=APIGroupDiscoveryList" in answer.headers["content-type"], answer.headers["content-type"]
            found = json.loads(answer.read())
            assert found["kind"] == "APIGroupDiscoveryList"
            all_ = {r["resource"] for g in found["items"] for v in g["versions"] for r in v["resources"]}
            assert least <= all_, least - all_
    assert server.get("/version")["major"] == "1"


@holds
def operations_of_kinds(server, _):
    """FlowSchema, PriorityLevelConfiguration, CertificateSigningRequest and policies: discovery and every verb."""
    request = (HERE.parent / "tests/kubectl/cluster.yaml").read_text().split("request: ")[1].strip()
    policy = {"matchConstraints": {"resourceRules": [{"apiGroups": ["x"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["x"]}]}}
    kinds = [
        ("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", ["status"],
         {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
          "rules": [{"subjects": [{"kind": "User", "user": {"name": "x"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", "prioritylevelconfigurations", ["status"],
         {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}),
        ("certificates.k8s.io", "CertificateSigningRequest", "certificatesigningrequests", ["status", "approval"],
         {"request": request, "signerName": "example.com/x", "usages": ["client auth"]}),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", ["status"],
         {**policy, "validations": [{"expression": "true"}]}),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", [],
         {"policyName": "x", "validationActions": ["Deny"]}),
    ]
    for group, kind, plural, subresources, spec in kinds:
        found = {r["name"] for r in server.get(f"/apis/{group}/v1")["resources"]}
        assert {plural, *(f"{plural}/{s}" for s in subresources)} <= found, found
        path, label = f"/apis/{group}/v1/{plural}", {"metadata": {"labels": {"made": "here"}}}
        first = server.create(path, kind, "one", spec=spec, **label)
        for name in ("two", "three"):
            server.create(path, kind, name, spec=spec, **label)
        assert names(server.get(f"{path}?labelSelector=made%3Dhere")) == {"one", "two", "three"}
        assert server.get(f"{path}/one")["metadata"]["uid"] == first["metadata"]["uid"]
        version = first["metadata"]["resourceVersion"]
        server.patch(f"{path}/one", {"metadata": {"annotations": {"patched": "true"}}})
        now = server.get(f"{path}/one")
        now["metadata"]["annotations"]["updated"] = "true"
        server.call("PUT", f"{path}/one", now)
        for subresource in subresources:
            now = server.get(f"{path}/one/{subresource}")
            server.patch(f"{path}/one/{subresource}", {"metadata": {"annotations": {f"patched-{subresource}": "true"}}})
            now = server.get(f"{path}/one")
            server.call("PUT", f"{path}/one/{subresource}", now)
        server.delete(f"{path}/one")
        server.gone(f"{path}/one")
        server.call("DELETE", f"{path}?labelSelector=made%3Dhere")
        until(lambda: not names(server.get(f"{path}?labelSelector=made%3Dhere")), f"no {plural}")
        seen = server.watch(f"{path}?watch=1&labelSelector=made%3Dhere&resourceVersion={version}", 5)
        types = [t for t, _ in seen]
        assert types[:3] == ["ADDED", "ADDED", "MODIFIED"] and "MODIFIED" in types[3:], types


def owner(found):
    metadata = found["metadata"]
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "name": metadata["name"], "uid": metadata["uid"]}


@holds
def garbage_of_controllers(server, ns):
    """Background, orphan and foreground deletion of Deployments and ReplicationControllers."""
    controllers, pods = f"{ns}/replicationcontrollers", f"{ns}/pods"
    apps = ns.replace("/api/v1", "/apis/apps/v1")
    for policy in ("Background", "Orphan", "Foreground"):
        app = f"rc-{policy.lower()}"
        mine = f"{pods}?labelSelector=app%3D{app}"
        server.create(controllers, "ReplicationController", app, **pods_of(app, 10))
        until(lambda: len(server.get(mine)["items"]) == 10, "ten pods")
        server.delete(f"{controllers}/{app}", propagationPolicy=policy)
        server.gone(f"{controllers}/{app}")
        if policy == "Orphan":
            time.sleep(1)
            left = server.get(mine)["items"]
            assert len(left) == 10 and not any(p["metadata"].get("ownerReferences") for p in left), left
        elif policy == "Foreground":
            assert not server.get(mine)["items"], "the owner went before its pods"
        else:
            until(lambda: not server.get(mine)["items"], "no pods")
    for policy in ("Background", "Orphan"):
        app = f"d-{policy.lower()}"
        sets, mine = f"{apps}/replicasets?labelSelector=app%3D{app}", f"{pods}?labelSelector=app%3D{app}"
        server.create(f"{apps}/deployments", "Deployment", app, **pods_of(app, 2, matchLabels={"app": app}))
        until(lambda: len(server.get(mine)["items"]) == 2, "two pods")
        server.delete(f"{apps}/deployments/{app}", propagationPolicy=policy)
        server.gone(f"{apps}/deployments/{app}")
        if policy == "Orphan":
            time.sleep(1)
            left = server.get(sets)["items"]
            assert len(left) == 1 and not left[0]["metadata"].get("ownerReferences"), left
            assert len(server.get(mine)["items"]) == 2
        else:
            until(lambda: not server.get(sets)["items"] and not server.get(mine)["items"], "nothing left")


@holds
def garbage_with_two_owners(server, ns):
    """Dependents with another valid owner stay when one owner waits for its dependents."""
    controllers, pods = f"{ns}/replicationcontrollers", f"{ns}/pods"
    server.create(controllers, "ReplicationController", "leaves", **pods_of("leaves", 10))
    stays = server.create(controllers, "ReplicationController", "stays", **pods_of("stays", 0))
    mine = f"{pods}?labelSelector=app%3Dleaves"
    until(lambda: len(server.get(mine)["items"]) == 10, "ten pods")
    shared = sorted(names(server.get(mine)))[:5]
    for name in shared:
        server.patch(f"{pods}/{name}", {"metadata": {"ownerReferences": [owner(stays)]}}, "strategic-merge-patch")
    server.delete(f"{controllers}/leaves", propagationPolicy="Foreground")
    server.gone(f"{controllers}/leaves")
    left = server.get(mine)["items"]
    assert {p["metadata"]["name"] for p in left} == set(shared), names(server.get(mine))
    assert not any(p["metadata"].get("deletionTimestamp") for p in left)


@holds
def garbage_in_a_circle(server, ns):
    """A circle of owners does not block deletion."""
    pods = f"{ns}/pods"
    circle = [server.create(pods, "Pod", f"circle-{n}", **pod()) for n in range(3)]
    for n, made in enumerate(circle):
        reference = {**owner(circle[n - 1]), "controller": True, "blockOwnerDeletion": True}
        server.patch(f"{pods}/{made['metadata']['name']}", {"metadata": {"ownerReferences": [reference]}})
    server.delete(f"{pods}/circle-0", propagationPolicy="Foreground")
    until(lambda: not any(n.startswith("circle-") for n in names(server.get(pods))), "circle gone")


@holds
def namespaces(server, _):
    """Patch, update, status, finalizer; what is inside goes, pods first."""
    path = "/api/v1/namespaces"
    server.create(path, "Namespace", "c-life")
    assert server.patch(f"{path}/c-life", {"metadata": {"labels": {"a": "b"}}}, "strategic-merge-patch")["metadata"]["labels"]["a"] == "b"
    found = server.get(f"{path}/c-life")
    found["metadata"]["labels"]["updated"] = "true"
    assert server.call("PUT", f"{path}/c-life", found)["metadata"]["labels"]["updated"] == "true"
    condition = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "set"}
    patched = server.patch(f"{path}/c-life/status", {"metadata": {"annotations": {"x": "y"}}, "status": {"conditions": [condition]}})
    assert patched["status"]["phase"] == "Active" and patched["status"]["conditions"][0]["type"] == "StatusPatch", patched["status"]
    found = server.get(f"{path}/c-life")
    found["spec"]["finalizers"].append("e2e.example.com/fake")
    assert "e2e.example.com/fake" in server.call("PUT", f"{path}/c-life/finalize", found)["spec"]["finalizers"]
    inside = f"{path}/c-life"
    server.create(f"{inside}/pods", "Pod", "held", metadata={"finalizers": ["e2e.example.com/hold"]}, **pod())
    server.create(f"{inside}/pods", "Pod", "free", **pod())
    server.create(f"{inside}/services", "Service", "s", spec={"ports": [{"port": 80}]})
    server.create(f"{inside}/configmaps", "ConfigMap", "c")
    server.delete(inside)
    server.gone(f"{inside}/pods/free")
    time.sleep(1)
    server.get(f"{inside}/configmaps/c")
    server.patch(f"{inside}/pods/held", {"metadata": {"finalizers": None}})
    server.gone(f"{inside}/services/s")
    server.gone(f"{inside}/configmaps/c")
    until(lambda: server.get(inside)["spec"]["finalizers"] == ["e2e.example.com/fake"], "emptied")
    found = server.get(inside)
    assert found["status"]["phase"] == "Terminating", found
    found["spec"]["finalizers"] = []
    server.call("PUT", f"{inside}/finalize", found)
    server.gone(inside)


def used(server, ns, quota="q"):
    return server.get(f"{ns}/resourcequotas/{quota}").get("status", {}).get("used", {})


@holds
def quota_counts_objects(server, ns):
    """A quota captures the life of objects of each kind, and refuses what exceeds it."""
    apps = ns.replace("/api/v1", "/apis/apps/v1")
    hard = {"configmaps": "10", "secrets": "10", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1",
            "replicationcontrollers": "10", "count/replicasets.apps": "10", "persistentvolumeclaims": "10", "resourcequotas": "1"}
    server.create(f"{ns}/resourcequotas", "ResourceQuota", "q", spec={"hard": hard})
    root_certificate = "1"
    until(lambda: used(server, ns).get("configmaps") == root_certificate, "a status")
    start = used(server, ns)
    assert set(start) == set(hard) and start["resourcequotas"] == "1", start
    objects = [
        (f"{ns}/configmaps", "ConfigMap", "configmaps", {}),
        (f"{ns}/secrets", "Secret", "secrets", {}),
        (f"{ns}/services", "Service", "services", {"spec": {"ports": [{"port": 80}]}}),
        (f"{ns}/replicationcontrollers", "ReplicationController", "replicationcontrollers", pods_of("x", 0)),
        (f"{apps}/replicasets", "ReplicaSet", "count/replicasets.apps", pods_of("x", 0, matchLabels={"app": "x"})),
        (f"{ns}/persistentvolumeclaims", "PersistentVolumeClaim", "persistentvolumeclaims",
         {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    ]
    for path, kind, resource, fields in objects:
        server.create(path, kind, "counted", **fields)
        until(lambda: int(used(server, ns)[resource]) == int(start[resource]) + 1, f"{resource} counted")
        server.delete(f"{path}/counted")
        until(lambda: used(server, ns)[resource] == start[resource], f"{resource} released")
    port = {"spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    server.create(f"{ns}/services", "Service", "first", **port)
    until(lambda: used(server, ns)["services.nodeports"] == "1", "node ports counted")
    refused = server.call("POST", f"{ns}/services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "second"}, **port}, want=403)
    assert "exceeded quota: q" in refused["message"], refused
    server.delete(f"{ns}/resourcequotas/q")
    server.gone(f"{ns}/resourcequotas/q")


@holds
def quota_counts_pods(server, ns):
    """Requests are captured, what exceeds them is refused, resources of a pod cannot change, deletion releases."""
    hard = {"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "requests.ephemeral-storage": "50Gi", "requests.example.com/dongle": "3"}
    server.create(f"{ns}/resourcequotas", "ResourceQuota", "q", spec={"hard": hard})
    until(lambda: set(used(server, ns)) == set(hard), "a status")
    requests = {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"}
    resources = {"requests": requests, "limits": {"example.com/dongle": "2"}}
    made = server.create(f"{ns}/pods", "Pod", "fits", **pod(container={"resources": resources}))
    expected = {"pods": "1", **{f"requests.{k}": v for k, v in requests.items()}}
    until(lambda: used(server, ns) == expected, f"used {expected}, is {used(server, ns)}")
    big = {"requests": {**requests, "cpu": "600m", "memory": "100Mi"}, "limits": {"example.com/dongle": "2"}}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"}, **pod(container={"resources": big})}
    assert "exceeded quota" in server.call("POST", f"{ns}/pods", body, want=403)["message"]
    made = server.get(f"{ns}/pods/fits")
    made["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "100m"
    server.call("PUT", f"{ns}/pods/fits", made, want=422)
    server.delete(f"{ns}/pods/fits", gracePeriodSeconds=0)
    until(lambda: set(used(server, ns).values()) == {"0"}, "released")


@holds
def quota_scopes(server, ns):
    """BestEffort and NotBestEffort, Terminating and NotTerminating count only their own pods."""
    bounded = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    pairs = [("BestEffort", "NotBestEffort", pod(), pod(container={"resources": bounded})),
             ("Terminating", "NotTerminating", pod(activeDeadlineSeconds=3600), pod())]
    for scopes_and_pods in pairs:
        scopes, bodies = scopes_and_pods[:2], scopes_and_pods[2:]
        for scope in scopes:
            server.create(f"{ns}/resourcequotas", "ResourceQuota", scope.lower(), spec={"hard": {"pods": "5"}, "scopes": [scope]})
        counts = lambda: [used(server, ns, scope.lower()).get("pods") for scope in scopes]
        until(lambda: counts() == ["0", "0"], "statuses")
        for body, expected in zip(bodies, (["1", "0"], ["0", "1"])):
            server.create(f"{ns}/pods", "Pod", "scoped", **body)
            until(lambda: counts() == expected, f"{scopes} {expected}, are {counts()}")
            server.delete(f"{ns}/pods/scoped", gracePeriodSeconds=0)
            until(lambda: counts() == ["0", "0"], "released")


@holds
def quota_life(server, ns):
    """Update, patch, status and collection deletion of a quota."""
    path = f"{ns}/resourcequotas"
    server.create(path, "ResourceQuota", "q", metadata={"labels": {"made": "here"}}, spec={"hard": {"cpu": "1", "memory": "500Mi"}})
    until(lambda: server.get(f"{path}/q").get("status", {}).get("hard"), "a status")
    found = server.get(f"{path}/q")
    found["spec"]["hard"] = {"cpu": "2", "memory": "1Gi"}
    server.call("PUT", f"{path}/q", found)
    until(lambda: server.get(f"{path}/q")["status"].get("hard") == {"cpu": "2", "memory": "1Gi"}, "status follows spec")
    server.patch(f"{path}/q", {"spec": {"hard": {"memory": "750Mi"}}})
    until(lambda: server.get(f"{path}/q/status")["status"]["hard"]["memory"] == "750Mi", "status follows patch")
    server.patch(f"{path}/q/status", {"status": {"hard": {"memory": "10Gi"}}})
    assert server.get(f"{path}/q")["spec"]["hard"]["memory"] == "750Mi"
    until(lambda: server.get(f"{path}/q/status")["status"]["hard"]["memory"] == "750Mi", "status corrected")
    assert names(server.get("/api/v1/resourcequotas?labelSelector=made%3Dhere")) == {"q"}
    server.call("DELETE", f"{path}?labelSelector=made%3Dhere")
    server.gone(f"{path}/q")


@holds
def watches(server, ns):
    """Selectors, selector transitions, starting and restarting at a version, equal order everywhere."""
    path = f"{ns}/configmaps"
    start = server.get(path)["metadata"]["resourceVersion"]
    one = server.create(path, "ConfigMap", "one", metadata={"labels": {"w": "a"}})
    server.create(path, "ConfigMap", "two", metadata={"labels": {"w": "b"}})
    second = server.patch(f"{path}/one", {"data": {"n": "1"}})
    server.patch(f"{path}/one", {"metadata": {"labels": {"w": "c"}}})
    server.patch(f"{path}/one", {"data": {"n": "2"}})
    server.patch(f"{path}/one", {"metadata": {"labels": {"w": "a"}}})
    server.delete(f"{path}/one")
    server.delete(f"{path}/two")
    seen = lambda query, count: [(t, o["metadata"]["name"]) for t, o in server.watch(f"{path}?watch=1&{query}", count)]
    whole = [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one"), ("ADDED", "one"), ("DELETED", "one")]
    assert seen(f"resourceVersion={start}&labelSelector=w%3Da", 5) == whole
    assert seen(f"resourceVersion={start}&labelSelector=w%3Db", 2) == [("ADDED", "two"), ("DELETED", "two")]
    both = [("ADDED", "one"), ("ADDED", "two"), ("MODIFIED", "one"), ("DELETED", "one"), ("ADDED", "one"), ("DELETED", "one"), ("DELETED", "two")]
    assert seen(f"resourceVersion={start}&labelSelector=w+in+(a,b)", 7) == both
    assert seen(f"resourceVersion={second['metadata']['resourceVersion']}&labelSelector=w%3Da", 3) == whole[2:]
    assert seen(f"resourceVersion={one['metadata']['resourceVersion']}&labelSelector=w%3Da", 4) == whole[1:]
    events = server.watch(f"{path}?watch=1&resourceVersion={start}", 8)
    order = [o["metadata"]["resourceVersion"] for _, o in events]
    assert order == sorted(order, key=int), order
    for position, version in enumerate(order[:-1]):
        rest = [o["metadata"]["resourceVersion"] for _, o in server.watch(f"{path}?watch=1&resourceVersion={version}", 7 - position)]
        assert rest == order[position + 1:], (version, rest)


@holds
def chunks(server, ns):
    """Pages of a list are consistent and say how much is left."""
    path = f"{ns}/podtemplates"
    for n in range(40):
        server.create(path, "PodTemplate", f"template-{n:04}", template=pod())
    seen, query, first = [], "limit=17", None
    while True:
        page = server.get(f"{path}?{query}")
        seen += [i["metadata"]["name"] for i in page["items"]]
        first = first or page["metadata"]["resourceVersion"]
        assert len(page["items"]) <= 17 and page["metadata"]["resourceVersion"] == first, page["metadata"]
        if not page["metadata"].get("continue"):
            break
        assert page["metadata"]["remainingItemCount"] == 40 - len(seen), page["metadata"]
        if len(seen) == 17:
            server.delete(f"{path}/template-0039")
        query = "limit=17&continue=" + urllib.parse.quote(page["metadata"]["continue"])
    assert seen == [f"template-{n:04}" for n in range(40)], seen
    assert len(server.get(path)["items"]) == 39


@holds
def tables(server, _):
    """A review has no table."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
              "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}}}
    server.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, want=406,
                headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})


@holds
def events(server, ns):
    """Both groups' events: life, series, collections, one storage."""
    apis = ns.replace("/api/v1", "/apis/events.k8s.io/v1")
    about = {"kind": "Pod", "name": "p", "namespace": ns.rsplit("/", 1)[1]}
    now = "2026-01-02T03:04:05.000000Z"
    label = {"labels": {"made": "here"}}
    server.create(f"{ns}/events", "Event", "old", metadata=label, involvedObject=about, reason="Test", message="one", type="Normal")
    server.create(f"{apis}/events", "Event", "new", metadata=label, regarding=about, reason="Test", note="one", type="Normal", eventTime=now,
                  reportingController="c", reportingInstance="i", action="Do")
    assert names(server.get("/api/v1/events?labelSelector=made%3Dhere")) == {"old", "new"}
    assert names(server.get("/apis/events.k8s.io/v1/events?labelSelector=made%3Dhere")) == {"old", "new"}
    assert server.patch(f"{ns}/events/old", {"message": "two"}, "strategic-merge-patch")["message"] == "two"
    assert server.patch(f"{apis}/events/new", {"note": "two"}, "strategic-merge-patch")["note"] == "two"
    for path, name in ((ns, "old"), (apis, "new")):
        found = server.get(f"{path}/events/{name}")
        found["series"] = {"count": 100, "lastObservedTime": now}
        assert server.call("PUT", f"{path}/events/{name}", found)["series"]["count"] == 100
    server.delete(f"{apis}/events/new")
    server.gone(f"{ns}/events/new")
    server.call("DELETE", f"{ns}/events?labelSelector=made%3Dhere")
    until(lambda: not names(server.get(f"{apis}/events?labelSelector=made%3Dhere")), "no events")


@holds
def service_accounts(server, ns):
    """Life, tokens, reviews, issuer discovery, the root certificate, opting out of the token."""
    path = f"{ns}/serviceaccounts"
    start = server.get(path)["metadata"]["resourceVersion"]
    server.create(path, "ServiceAccount", "mine", metadata={"labels": {"a": "b"}})
    assert server.patch(f"{path}/mine", {"automountServiceAccountToken": False})["automountServiceAccountToken"] is False
    found = server.get(f"{path}/mine")
    found["automountServiceAccountToken"] = True
    assert server.call("PUT", f"{path}/mine", found)["automountServiceAccountToken"] is True
    assert names(server.get("/api/v1/serviceaccounts?labelSelector=a%3Db")) == {"mine"}
    namespace = ns.rsplit("/", 1)[1]
    token = server.call("POST", f"{path}/mine/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = server.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    assert status["authenticated"] and status["user"]["username"] == f"system:serviceaccount:{namespace}:mine" and not status.get("error"), status
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    issuer = server.get("/.well-known/openid-configuration")
    assert issuer["issuer"] == claims["iss"], issuer
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header["kid"] in {key["kid"] for key in server.get("/openid/v1/jwks")["keys"]}
    for pod_says in (None, True, False):
        for account_says in (None, True, False):
            name = f"{pod_says}-{account_says}".lower()
            server.create(path, "ServiceAccount", name, **({} if account_says is None else {"automountServiceAccountToken": account_says}))
            said = {} if pod_says is None else {"automountServiceAccountToken": pod_says}
            made = server.create(f"{ns}/pods", "Pod", name, **pod(serviceAccountName=name, **said))
            mounts = made["spec"]["containers"][0].get("volumeMounts", [])
            mounted = any(m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" for m in mounts)
            assert mounted == (account_says is not False if pod_says is None else pod_says), name
    root = f"{ns}/configmaps/kube-root-ca.crt"
    until(lambda: server.open("GET", root).status == 200, "root certificate")
    certificate = server.get(root)["data"]
    server.delete(root)
    until(lambda: server.open("GET", root).status == 200, "root certificate again")
    server.patch(root, {"data": {"ca.crt": "", "x": "y"}})
    until(lambda: server.get(root)["data"] == certificate, "root certificate mended")
    server.delete(f"{path}/mine")
    types = [t for t, _ in server.watch(f"{path}?watch=1&labelSelector=a%3Db&resourceVersion={start}", 4)]
    assert types == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"], types


@holds
def subject_reviews(server, ns):
    """SubjectAccessReview and its local form say what the subject may really do."""
    namespace = ns.rsplit("/", 1)[1]
    server.create(f"{ns}/serviceaccounts", "ServiceAccount", "asks")
    user = f"system:serviceaccount:{namespace}:asks"
    rbac = ns.replace("/api/v1", "/apis/rbac.authorization.k8s.io/v1")
    server.create(f"{rbac}/roles", "Role", "lists", rules=[{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])
    server.create(f"{rbac}/rolebindings", "RoleBinding", "lists", roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lists"},
                  subjects=[{"kind": "ServiceAccount", "name": "asks", "namespace": namespace}])
    other = server.acting_as(user)
    for resource, may in (("configmaps", True), ("secrets", False)):
        until(lambda: (other.open("GET", f"{ns}/{resource}").status == 200) == may, f"list {resource}: {may}")
        spec = {"user": user, "resourceAttributes": {"verb": "list", "resource": resource, "namespace": namespace, "version": "v1"}}
        group = "authorization.k8s.io/v1"
        body = {"apiVersion": group, "kind": "SubjectAccessReview", "spec": spec}
        assert server.call("POST", f"/apis/{group}/subjectaccessreviews", body)["status"]["allowed"] == may
        body["kind"], body["metadata"] = "LocalSubjectAccessReview", {"namespace": namespace}
        local = ns.replace("/api/v1", f"/apis/{group}") + "/localsubjectaccessreviews"
        assert server.call("POST", local, body)["status"]["allowed"] == may


@holds
def fields_are_validated(server, ns):
    """Strict validation names unknown and duplicate fields of typed objects, also in metadata."""
    path = ns.replace("/api/v1", "/apis/apps/v1") + "/deployments?fieldValidation=Strict"
    text = json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "unknownMeta": "x"},
                       **pods_of("d", 1, matchLabels={"app": "d"})})
    text = text.replace('"replicas": 1', '"replicas": 1, "unknown1": "v", "unknownDupe": "v", "unknownDupe": "v", "paused": true, "paused": false')
    answer = http.client.HTTPSConnection(server.address, context=server.tls, timeout=LIMIT_S)
    answer.request("POST", path, text, {"Content-Type": "application/json"})
    said = json.loads(answer.getresponse().read())
    for part in ('unknown field "spec.unknown1"', 'unknown field "spec.unknownDupe"', 'duplicate field "spec.paused"', 'unknown field "metadata.unknownMeta"'):
        assert part in said["message"], said["message"]


def main():
    server = Server(sys.argv[1])
    chosen = [t for t in TESTS if not sys.argv[2:] or t.__name__ in sys.argv[2:]]
    failed = 0
    for test in chosen:
        namespace = "c-" + test.__name__.replace("_", "-")
        try:
            server.create("/api/v1/namespaces", "Namespace", namespace)
            test(server, f"/api/v1/namespaces/{namespace}")
        except Exception:
            failed += 1
            print(f"does not hold: {test.__name__}: {test.__doc__}")
            traceback.print_exc(file=sys.stdout)
        finally:
            server.open("DELETE", f"/api/v1/namespaces/{namespace}")
    print(f"{len(chosen) - failed} hold, {failed} do not")
    sys.exit(1 if failed else 0)


main()
