"""[sig-api-machinery] ResourceQuota."""

import json

from server import holds, name_of, names, of_group, pod, pods_of, until

GOLD, DONGLE = "gold.storageclass.storage.k8s.io", "example.com/dongle"
HARD = {"pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1", "replicationcontrollers": "10",
        "resourcequotas": "1", "cpu": "1", "memory": "500Mi", "configmaps": "10", "secrets": "10", "persistentvolumeclaims": "10",
        "requests.storage": "10Gi", "ephemeral-storage": "50Gi", f"{GOLD}/persistentvolumeclaims": "10", f"{GOLD}/requests.storage": "10Gi",
        "count/replicasets.apps": "5", f"requests.{DONGLE}": "3"}


def quota(server, ns, name="test-quota", **spec):
    return server.create(f"{ns}/resourcequotas", "ResourceQuota", name, spec=spec)


def uses(server, ns, name="test-quota", **expected):
    """Waits until a quota says that this is used."""
    expected = {resource.replace("__", "/").replace("_", "."): amount for resource, amount in expected.items()}
    used = lambda: server.get(f"{ns}/resourcequotas/{name}").get("status", {}).get("used", {})
    until(lambda: expected.items() <= used().items(), lambda: f"{expected} used, is {used()}")


@holds("ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated.")
def promptly(server, ns):
    quota(server, ns, hard=HARD)
    uses(server, ns, resourcequotas="1")
    found = server.get(f"{ns}/resourcequotas/test-quota")["status"]
    assert found["hard"] == HARD and set(found["used"]) == set(HARD), found
    assert "exceeded quota: test-quota" in server.refuses(f"{ns}/resourcequotas", "ResourceQuota", "another", 403, spec={"hard": {"pods": "1"}})


LIVES = {
    "configMap": ("v1", "ConfigMap", "configmaps", "configmaps", {}),
    "secret": ("v1", "Secret", "secrets", "secrets", {"data": {"data-1": "dmFsdWUtMQo="}}),
    "replication controller": ("v1", "ReplicationController", "replicationcontrollers", "replicationcontrollers", pods_of({"name": "x"}, 0)),
    "replica set": ("apps/v1", "ReplicaSet", "replicasets", "count/replicasets.apps", pods_of({"name": "x"}, 0, matchLabels={"name": "x"})),
}


def life(server, ns, group, kind, plural, resource, fields):
    """What is there before is counted; one more may be made, and not two."""
    path = f"{ns}/{plural}" if group == "v1" else f"{of_group(ns, group)}/{plural}"
    root = {"kube-root-ca.crt"} if plural == "configmaps" else set()
    until(lambda: names(server.get(path)) == root, f"nothing but {root}")
    before, after = str(len(root)), str(len(root) + 1)
    quota(server, ns, hard={**HARD, resource: after})
    uses(server, ns, **{resource: before, "resourcequotas": "1"})
    server.create(path, kind, "test", **fields)
    uses(server, ns, **{resource: after})
    said = server.refuses(path, kind, "more", 403, **fields)
    assert f"exceeded quota: test-quota, requested: {resource}=1, used: {resource}={after}, limited: {resource}={after}" in said, said
    server.delete(f"{path}/test", propagationPolicy="Background")
    uses(server, ns, **{resource: before})


for word, row in LIVES.items():
    holds(f"ResourceQuota should create a ResourceQuota and capture the life of a {word}.", *row)(life)


def service(kind, **spec):
    return {"spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}], **spec}}


@holds("ResourceQuota should create a ResourceQuota and capture the life of a service.")
def services(server, ns):
    path = f"{ns}/services"
    quota(server, ns, hard=HARD)
    uses(server, ns, resourcequotas="1", services="0")
    server.create(path, "Service", "test-service", **service("ClusterIP"))
    server.create(path, "Service", "test-service-np", **service("NodePort"))
    said = server.refuses(path, "Service", "test-service-lb", 403, **service("LoadBalancer", allocateLoadBalancerNodePorts=True))
    assert "exceeded quota: test-quota, requested: services.nodeports=1, used: services.nodeports=1" in said, said
    uses(server, ns, services="2", services_nodeports="1", services_loadbalancers="0")
    server.create(path, "Service", "test-service-lb", **service("LoadBalancer", allocateLoadBalancerNodePorts=False))
    uses(server, ns, services="3", services_nodeports="1", services_loadbalancers="1")
    for name in ("test-service", "test-service-np", "test-service-lb"):
        server.delete(f"{path}/{name}")
    uses(server, ns, services="0", services_nodeports="0", services_loadbalancers="0")


def amounts(**requests):
    requests = {resource.replace("ephemeral", "ephemeral-storage").replace("dongle", DONGLE): amount for resource, amount in requests.items()}
    limits = {DONGLE: requests[DONGLE]} if DONGLE in requests else {}
    return pod({"resources": {"requests": requests, "limits": limits}})


@holds("ResourceQuota should create a ResourceQuota and capture the life of a pod.")
def pods(server, ns):
    path = f"{ns}/pods"
    quota(server, ns, hard=HARD)
    uses(server, ns, resourcequotas="1")
    server.create(path, "Pod", "test-pod", **amounts(cpu="500m", memory="252Mi", ephemeral="30Gi", dongle="2"))
    taken = {"resourcequotas": "1", "pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", f"requests.{DONGLE}": "2"}
    uses_exactly = lambda: uses(server, ns, **taken)
    uses_exactly()
    for requests in ({"cpu": "600m", "memory": "100Mi"}, {"cpu": "500m", "memory": "100Mi", "ephemeral": "30Gi", "dongle": "2"}):
        server.refuses(path, "Pod", "fail-pod", 403, **amounts(**requests))
    changed = server.get(f"{path}/test-pod")
    changed["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "10Gi"}
    server.call("PUT", f"{path}/test-pod", changed, want=422)
    uses_exactly()
    server.delete(f"{path}/test-pod", gracePeriodSeconds=0)
    uses(server, ns, **{resource: "1" if resource == "resourcequotas" else "0" for resource in taken})


BOUNDED = {"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "400Mi"}}
COUNTED = {"pods": "1", "requests.cpu": "500m", "requests.memory": "200Mi", "limits.cpu": "1", "limits.memory": "400Mi"}


def scopes(server, ns, first, second, hard, counted, bodies):
    """A pod counts in the quota of its own scope and is released there."""
    both = {name: f"quota-{name.lower()}" for name in (first, second)}
    nothing = dict.fromkeys(counted, "0")
    for scope, name in both.items():
        quota(server, ns, name, hard=hard, scopes=[scope])
        uses(server, ns, name, **nothing)
    for scope, body in bodies.items():
        server.create(f"{ns}/pods", "Pod", "test-pod", **body)
        for other, name in both.items():
            uses(server, ns, name, **(counted if other == scope else nothing))
        server.delete(f"{ns}/pods/test-pod", gracePeriodSeconds=0)
        uses(server, ns, both[scope], **nothing)


holds("ResourceQuota should verify ResourceQuota with terminating scopes.", "Terminating", "NotTerminating",
      {"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2", "limits.memory": "1Gi"}, COUNTED,
      {"NotTerminating": pod({"resources": BOUNDED}), "Terminating": pod({"resources": BOUNDED}, activeDeadlineSeconds=3600)})(scopes)
holds("ResourceQuota should verify ResourceQuota with best effort scope.", "BestEffort", "NotBestEffort", {"pods": "5"}, {"pods": "1"},
      {"BestEffort": pod(), "NotBestEffort": pod({"resources": BOUNDED})})(scopes)


@holds("ResourceQuota should be able to update and delete ResourceQuota.")
def changed(server, ns):
    path = f"{ns}/resourcequotas/test-quota"
    quota(server, ns, hard={"cpu": "1", "memory": "500Mi"})
    now = server.update(path, lambda now: now["spec"].update(hard={"cpu": "2", "memory": "1Gi"}))
    assert now["spec"]["hard"] == {"cpu": "2", "memory": "1Gi"} == server.get(path)["spec"]["hard"]
    server.delete(path)
    assert server.open("GET", path).status == 404


@holds("ResourceQuota should manage the lifecycle of a ResourceQuota")
def managed(server, ns):
    path, mine = f"{ns}/resourcequotas", f"labelSelector={name_of(ns)}"
    server.create(path, "ResourceQuota", "e2e-quota", metadata={"labels": {name_of(ns): "new"}}, spec={"hard": {"cpu": "1", "memory": "500Mi"}})
    assert server.get(f"{path}/e2e-quota")["spec"]["hard"] == {"cpu": "1", "memory": "500Mi"}
    assert names(server.get(f"/api/v1/resourcequotas?{mine}")) == {"e2e-quota"}
    patch = {"metadata": {"labels": {name_of(ns): "patched"}}, "spec": {"hard": {"memory": "750Mi"}}}
    patched = server.patch(f"{path}/e2e-quota", patch, "strategic-merge-patch")
    assert patched["spec"]["hard"] == {"cpu": "1", "memory": "750Mi"} and patched["metadata"]["labels"] == patch["metadata"]["labels"], patched
    server.delete(f"{path}?{mine}%3Dpatched")
    assert not server.get(f"/api/v1/resourcequotas?{mine}")["items"]


@holds("ResourceQuota should apply changes to a resourcequota status")
def status(server, ns):
    path = f"{ns}/resourcequotas/e2e"
    version = server.get("/api/v1/resourcequotas")["metadata"]["resourceVersion"]
    server.create(f"{ns}/resourcequotas", "ResourceQuota", "e2e", spec={"hard": {"cpu": "500m", "memory": "500Mi"}})

    def seen(hard):
        stream = server.open("GET", f"{ns}/resourcequotas?watch=1&resourceVersion={version}")
        while json.loads(stream.readline())["object"].get("status", {}).get("hard") != hard:
            pass
        stream.close()

    server.update(path, lambda now: now.update(status={"hard": now["spec"]["hard"]}), "/status")
    seen({"cpu": "500m", "memory": "500Mi"})
    more = {"cpu": "1", "memory": "1Gi"}
    server.patch(path, {"spec": {"hard": more}}, "strategic-merge-patch")
    server.patch(f"{path}/status", {"status": {"hard": more}}, "strategic-merge-patch")
    seen(more)
    assert server.get(f"{path}/status")["status"]["hard"] == more
    wrong = {"cpu": "2", "memory": "2Gi"}
    patched = server.patch(f"{path}/status", {"status": {"hard": wrong}}, "strategic-merge-patch")
    assert patched["status"]["hard"] == wrong and patched["spec"]["hard"] == more, patched
    seen(wrong)
    until(lambda: server.get(path)["status"]["hard"] == more, "a status that follows the spec again")
    assert server.get(path)["spec"]["hard"] == more
