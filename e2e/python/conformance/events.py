"""[sig-instrumentation]: events in both groups."""

from server import holds, name_of, names, of_group

OBSERVED = "2017-09-19T13:49:16.000000Z"


def labelled(ns):
    return {"metadata": {"labels": {"testevent": name_of(ns)}}}


def of_core(server, ns, name):
    about = {"namespace": name_of(ns)}
    return server.create(f"{ns}/events", "Event", name, **labelled(ns), message=f"This is {name}", reason="Test", type="Normal", count=1, involvedObject=about)


def of_events(server, ns, name):
    about = {"namespace": name_of(ns)}
    path = of_group(ns, "events.k8s.io/v1") + "/events"
    return server.create(path, "Event", name, **labelled(ns), regarding=about, eventTime="2026-01-02T03:04:05.678901Z", note=f"This is {name}", action="Do",
                         reason="Test", type="Normal", reportingController="test-controller", reportingInstance="test-node")


def stripped(found):
    for field in ("resourceVersion", "managedFields"):
        found["metadata"].pop(field, None)
    return found


# Of an event of the newer group only the series may change.
CORE = ("/api/v1", of_core, {"message": "patched"})
EVENTS = ("/apis/events.k8s.io/v1", of_events, {"series": {"count": 2, "lastObservedTime": OBSERVED}})


@holds("Events should manage the lifecycle of an event", *CORE)
@holds("Events API should ensure that an event can be fetched, patched, deleted, and listed", *EVENTS)
def life(server, ns, group, make, change):
    everywhere, here = f"{group}/events", ns.replace("/api/v1", group) + "/events"
    path, mine = f"{here}/event-test", f"labelSelector=testevent%3D{name_of(ns)}"
    make(server, ns, "event-test")
    for collection in (everywhere, here):
        assert "event-test" in names(server.get(f"{collection}?{mine}"))
    if make is of_events:
        for query in (f"{ns}/events?fieldSelector=source%3Dtest-controller", f"{here}?fieldSelector=reportingController%3Dtest-controller"):
            assert names(server.get(query)) == {"event-test"}, query
    before = stripped(server.get(path))
    server.patch(path, change, "strategic-merge-patch")
    before.update(change)
    assert stripped(server.get(path)) == before, server.get(path)
    before["series"] = {"count": 100, "lastObservedTime": OBSERVED}
    body = {**before, "metadata": {**before["metadata"], "resourceVersion": server.get(path)["metadata"]["resourceVersion"]}} if make is of_events else before
    server.send("PUT", path, body)
    assert stripped(server.get(path)) == before, server.get(path)
    server.delete(path)
    for collection in (everywhere, here):
        assert not server.get(f"{collection}?{mine}")["items"]


@holds("Events should delete a collection of events", *CORE)
@holds("Events API should delete a collection of events", *EVENTS)
def collection(server, ns, group, make, _):
    here, mine = ns.replace("/api/v1", group) + "/events", f"labelSelector=testevent%3D{name_of(ns)}"
    for number in (1, 2, 3):
        make(server, ns, f"test-event-{number}")
    assert len(server.get(f"{here}?{mine}")["items"]) == 3
    server.delete(f"{here}?{mine}")
    assert not server.get(f"{here}?{mine}")["items"]
