"""[sig-api-machinery]: what goes when its owner or its namespace goes, and what stays."""

from server import condition, holds, name_of, names, of_group, pod, pods_of, until


def owned(server, ns, app, replicas):
    """A ReplicationController with its pods, and the query that finds them."""
    path, mine = f"{ns}/replicationcontrollers", f"{ns}/pods?labelSelector=app%3D{app}"
    made = server.create(path, "ReplicationController", app, **pods_of({"app": app}, replicas))
    until(lambda: server.get(f"{path}/{app}")["status"]["replicas"] == replicas == len(server.get(mine)["items"]), "its pods")
    return f"{path}/{app}", made, mine


def owners(found):
    return [o["uid"] for item in found["items"] for o in item["metadata"].get("ownerReferences", [])]


def delete(server, path, made, policy):
    """Deletes as the suite does; another object of that name would stay."""
    server.delete(path, want=409, uid="00000000-0000-0000-0000-000000000000")
    server.delete(path, propagationPolicy=policy, uid=made["metadata"]["uid"])


@holds("Garbage collector should delete pods created by rc when not orphaning")
def background(server, ns):
    path, made, mine = owned(server, ns, "background", 2)
    delete(server, path, made, "Background")
    server.gone(path)
    until(lambda: not server.get(mine)["items"], "no pods")


@holds("Garbage collector should orphan pods created by rc if delete options say so [Serial]")
def orphan(server, ns):
    path, made, mine = owned(server, ns, "orphan", 10)
    delete(server, path, made, "Orphan")
    server.gone(path)
    left = server.get(mine)
    assert len(left["items"]) == 10 and not owners(left), "an owner goes after its pods are nobody's"
    assert not any(item["metadata"].get("deletionTimestamp") for item in left["items"])


@holds("Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so [Serial]")
def foreground(server, ns):
    path, made, mine = owned(server, ns, "foreground", 10)
    held = sorted(names(server.get(mine)))[0]
    server.patch(f"{ns}/pods/{held}", {"metadata": {"finalizers": ["e2e.example.com/held"]}})
    delete(server, path, made, "Foreground")
    until(lambda: names(server.get(mine)) == {held}, "all but one pod gone")
    left = server.get(path)["metadata"]
    assert left["deletionTimestamp"] and left["finalizers"] == ["foregroundDeletion"], left
    server.patch(f"{ns}/pods/{held}", {"metadata": {"finalizers": None}})
    server.gone(path)
    assert not server.get(mine)["items"], "the owner went before its pods"


def deployed(server, ns, app):
    apps = of_group(ns, "apps/v1")
    sets, mine = f"{apps}/replicasets?labelSelector=app%3D{app}", f"{ns}/pods?labelSelector=app%3D{app}"
    made = server.create(f"{apps}/deployments", "Deployment", app, **pods_of({"app": app}, 2, matchLabels={"app": app}))
    until(lambda: len(server.get(mine)["items"]) == 2, "two pods")
    return f"{apps}/deployments/{app}", made, sets, mine


@holds("Garbage collector should delete RS created by deployment when not orphaning")
def background_of_deployments(server, ns):
    path, made, sets, mine = deployed(server, ns, "background")
    delete(server, path, made, "Background")
    until(lambda: not server.get(sets)["items"] and not server.get(mine)["items"], "nothing left")


@holds("Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan")
def orphan_of_deployments(server, ns):
    path, made, sets, mine = deployed(server, ns, "orphan")
    delete(server, path, made, "Orphan")
    server.gone(path)
    left = server.get(sets)
    assert len(left["items"]) == 1 and not owners(left) and len(server.get(mine)["items"]) == 2, left


@holds("Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted [Serial]")
def two_owners(server, ns):
    path, made, mine = owned(server, ns, "simpletest-rc-to-be-deleted", 10)
    _, stays, _ = owned(server, ns, "simpletest-rc-to-stay", 0)
    reference = {"apiVersion": "v1", "kind": "ReplicationController", "name": "simpletest-rc-to-stay", "uid": stays["metadata"]["uid"]}
    shared = set(sorted(names(server.get(mine)))[:5])
    for name in shared:
        found = server.patch(f"{ns}/pods/{name}", {"metadata": {"ownerReferences": [reference]}}, "strategic-merge-patch")
        assert len(found["metadata"]["ownerReferences"]) == 2, found
    delete(server, path, made, "Foreground")
    server.gone(path)
    left = server.get(mine)
    assert names(left) == shared and set(owners(left)) == {stays["metadata"]["uid"]}, left
    assert not any(item["metadata"].get("deletionTimestamp") for item in left["items"])


@holds("Garbage collector should not be blocked by dependency circle")
def circle(server, ns):
    pods = f"{ns}/pods"
    made = [server.create(pods, "Pod", f"pod{number}", **pod(terminationGracePeriodSeconds=0))["metadata"] for number in (1, 2, 3)]
    for number, mine in enumerate(made):
        before = made[number - 1]
        reference = {"apiVersion": "v1", "kind": "Pod", "name": before["name"], "uid": before["uid"], "controller": True, "blockOwnerDeletion": True}
        server.patch(f"{pods}/{mine['name']}", {"metadata": {"ownerReferences": [reference]}}, "strategic-merge-patch")
    server.delete(f"{pods}/pod1", propagationPolicy="Foreground", uid=made[0]["uid"])
    until(lambda: not server.get(pods)["items"], "the circle gone")


NAMESPACES = "/api/v1/namespaces"


def running(server, ns, name, **fields):
    """A pod; it runs when there are nodes, with the image that the script was told."""
    grace = {"terminationGracePeriodSeconds": 1}
    made = server.create(f"{ns}/pods", "Pod", name, **fields, **pod({"image": server.image or "none", "command": ["sleep", "100000"]}, **grace))
    if server.image:
        until(lambda: server.get(f"{ns}/pods/{name}").get("status", {}).get("phase") == "Running", f"{name} runs")
    return made


def inner(server, ns):
    """A namespace that goes during a test, with its service account."""
    name = f"{name_of(ns)}-inner"
    server.create(NAMESPACES, "Namespace", name)
    until(lambda: server.open("GET", f"{NAMESPACES}/{name}/serviceaccounts/default").status == 200, "a service account")
    return f"{NAMESPACES}/{name}"


@holds("Namespaces [Serial] should ensure that all pods are removed when a namespace is deleted", "pods")
@holds("Namespaces [Serial] should ensure that all services are removed when a namespace is deleted", "services")
def namespace_takes_its_content(server, ns, plural):
    inside = inner(server, ns)
    if plural == "pods":
        running(server, inside, "test")
    else:
        server.create(f"{inside}/services", "Service", "test", spec={"selector": {"foo": "bar"}, "ports": [{"port": 80, "targetPort": 80}]})
    server.delete(inside)
    server.gone(inside)
    assert inner(server, ns) == inside
    assert server.open("GET", f"{inside}/{plural}/test").status == 404
    server.delete(inside)


@holds("OrderedNamespaceDeletion namespace deletion should delete pod first")
def pods_go_first(server, ns):
    inside = inner(server, ns)
    running(server, inside, "test", metadata={"finalizers": ["e2e.example.com/finalizer"]})
    server.create(f"{inside}/configmaps", "ConfigMap", "test", data={"key": "value"})
    server.delete(inside)
    until(lambda: condition(server.get(inside), "NamespaceDeletionContentFailure"), lambda: f"a condition: {server.get(inside)}")
    found = server.get(inside)
    assert found["status"]["phase"] == "Terminating", found
    reasons = {c["type"]: c["status"] for c in found["status"]["conditions"]}
    assert reasons == {"NamespaceDeletionDiscoveryFailure": "False", "NamespaceDeletionGroupVersionParsingFailure": "False",
                       "NamespaceDeletionContentFailure": "False", "NamespaceContentRemaining": "True", "NamespaceFinalizersRemaining": "True"}, reasons
    assert server.get(f"{inside}/pods/test")["metadata"]["deletionTimestamp"]
    server.get(f"{inside}/configmaps/test")
    server.update(f"{inside}/pods/test", lambda found: found["metadata"].update(finalizers=[]))
    server.gone(inside)


@holds("Namespaces [Serial] should patch a Namespace")
def namespace_patched(server, ns):
    before = server.get(ns)
    after = server.patch(ns, {"metadata": {"labels": {"testLabel": "testValue"}}}, "strategic-merge-patch")
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
    assert server.get(ns)["metadata"]["labels"]["testLabel"] == "testValue"


@holds("Namespaces [Serial] should apply an update to a Namespace")
def namespace_updated(server, ns):
    name = name_of(ns)
    assert server.update(ns, lambda now: now["metadata"]["labels"].update({name: "updated"}))["metadata"]["labels"][name] == "updated"


@holds("Namespaces [Serial] should apply changes to a namespace status")
def namespace_status(server, ns):
    assert server.get(f"{ns}/status")["status"]["phase"] == "Active"
    says = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test"}
    patched = server.patch(f"{ns}/status", {"metadata": {"annotations": {"e2e-patched-ns-status": "x"}}, "status": {"conditions": [says]}})
    assert patched["metadata"]["annotations"]["e2e-patched-ns-status"] == "x"
    assert patched["status"]["conditions"][-1].items() >= says.items() and patched["status"]["phase"] == "Active", patched
    says = {**says, "type": "StatusUpdate", "message": "Updated by an e2e test"}
    updated = server.update(f"{ns}/status", lambda now: now["status"]["conditions"].append(says))
    assert updated["status"]["conditions"][-1].items() >= says.items(), updated


@holds("Namespaces [Serial] should apply a finalizer to a Namespace")
def namespace_finalizer(server, ns):
    inside, fake = inner(server, ns), "e2e.example.com/fakeFinalizer"
    assert fake in server.update(inside, lambda now: now["spec"]["finalizers"].append(fake), "/finalize")["spec"]["finalizers"]
    left = server.update(inside, lambda now: now["spec"].update(finalizers=["kubernetes"]), "/finalize")
    assert left["spec"]["finalizers"] == ["kubernetes"], left
    server.delete(inside)
    server.gone(inside)
