"""Owners, pods and namespaces made, scaled and deleted in any order, eight clients at once: nothing is left.

    at_once.py KUBECONFIG [SEED]

Each round has a namespace with a few workloads of every kind; it deletes some of them, and pods, with any policy, while
controllers are at work on them, and the namespace at last. Fails when a namespace does not go. Same seed, same rounds.
"""

import pathlib
import random
import sys
import threading
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).parent / "conformance"))
from server import Server, object_of, of_group, pods_of  # noqa: E402

ROUNDS, CLIENTS = 40, 8
KINDS = {
    "ReplicationController": ("v1", "replicationcontrollers"),
    "Deployment": ("apps/v1", "deployments"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "DaemonSet": ("apps/v1", "daemonsets"),
    "Job": ("batch/v1", "jobs"),
}


def workload(kind, name, replicas):
    """The fields of a workload that has the kind's own shape."""
    selector = {} if kind == "ReplicationController" else {"matchLabels": {"app": name}}
    spec = pods_of({"app": name}, replicas, **selector)["spec"]
    if kind in ("Job", "DaemonSet"):
        del spec["replicas"]
    if kind == "Job":
        del spec["selector"]
        spec["parallelism"] = replicas
        spec["template"]["spec"]["restartPolicy"] = "Never"
    return {"spec": spec}


def tried(server, method, path, body, **headers):
    """Whatever comes of it: somebody else may have been faster."""
    server.open(method, path, body, {"Content-Type": "application/json", **headers}).read()


def play(server, chance):
    namespaces = "/api/v1/namespaces"
    ns = f"{namespaces}/{server.create(namespaces, 'Namespace', 'at-once-')['metadata']['name']}"
    server.create(f"{ns}/resourcequotas", "ResourceQuota", "q", spec={"hard": {"pods": "100", "count/deployments.apps": "10"}})
    made = []
    for number in range(chance.randint(2, 5)):
        kind, (group, plural) = chance.choice(list(KINDS.items()))
        path = f"{ns if group == 'v1' else of_group(ns, group)}/{plural}"
        # Not through a dry run: a Job's labels are made of the uid it got there.
        server.call("POST", path, object_of(path, kind, f"w{number}", **workload(kind, f"w{number}", chance.randint(0, 4))))
        made.append((f"{path}/w{number}", plural))
        time.sleep(chance.random() / 4)
    for path, plural in made:
        act = chance.random()
        if act < 0.3 and plural not in ("jobs", "daemonsets"):
            tried(server, "PATCH", path, {"spec": {"replicas": chance.randint(0, 4)}}, **{"Content-Type": "application/merge-patch+json"})
        elif act < 0.75:
            for policy in chance.choice((["Foreground"], ["Background"], ["Orphan"], ["Foreground", "Background"], ["Orphan", "Background"])):
                tried(server, "DELETE", path, {"propagationPolicy": policy})
        pods = server.get(f"{ns}/pods")["items"]
        if pods and chance.random() < 0.5:
            tried(server, "DELETE", f"{ns}/pods/{chance.choice(pods)['metadata']['name']}", {"gracePeriodSeconds": 0})
        time.sleep(chance.random() / 4)
    server.delete(ns)
    server.gone(ns)


def main():
    server, seed = Server(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 1
    failed = []

    def client(first):
        for number in range(first, ROUNDS, CLIENTS):
            try:
                play(server, random.Random(f"{seed} {number}"))
            except Exception:
                failed.append(number)
                traceback.print_exc(file=sys.stdout)

    clients = [threading.Thread(target=client, args=(first,)) for first in range(CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    print(f"seed {seed}: {ROUNDS} rounds, {len(failed)} left something: {sorted(failed)}")
    sys.exit(1 if failed else 0)


main()
