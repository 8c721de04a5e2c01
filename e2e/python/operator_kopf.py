"""An operator written with kopf, and whether it reconciles: `operator_kopf.py KUBECONFIG`.

ConfigMaps with the label `operated` get a Secret with the same data, which follows changes, is made again when somebody
deletes it, and goes with its owner, after the operator's last handler has run. Prints `kopf: N steps` at the end.
"""

import asyncio
import base64
import os
import sys
import threading
import time

os.environ["KUBECONFIG"] = sys.argv[1]

import kopf
from kubernetes import client, config
from kubernetes.client.rest import ApiException

config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
NS = "kopf"
OPERATED = {"operated": kopf.PRESENT}
deleted = threading.Event()


@kopf.on.startup()
def quick(settings, **_):
    settings.posting.enabled = True
    settings.peering.standalone = True


@kopf.on.create("configmaps", labels=OPERATED)
@kopf.on.update("configmaps", labels=OPERATED, field="data")
def write(body, name, patch, **_):
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": dict(body.get("data", {}))}
    kopf.adopt(secret)
    try:
        core.replace_namespaced_secret(name, NS, secret)
    except ApiException as error:
        if error.status != 404:
            raise
        core.create_namespaced_secret(NS, secret)
    patch.metadata.annotations["example.com/reconciled"] = str(body.get("data", {}).get("a"))


@kopf.on.event("secrets", when=lambda event, **_: event.get("type") == "DELETED")
def again(name, namespace, **_):
    if namespace != NS:
        return
    try:
        owner = core.read_namespaced_config_map(name, NS)
    except ApiException:
        return
    if not owner.metadata.deletion_timestamp:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": owner.data}
        kopf.adopt(secret, owner={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": owner.metadata.uid}})
        core.create_namespaced_secret(NS, secret)


@kopf.on.delete("configmaps", labels=OPERATED)
def last_words(**_):
    deleted.set()


def until(what, condition, seconds=40):
    end = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except ApiException as error:
            found = error.status
        if found is True:
            return
        if time.monotonic() > end:
            sys.exit(f"{what}: {found}")
        time.sleep(0.05)


def secret_is(text):
    return lambda: base64.b64decode(core.read_namespaced_secret("m", NS).data["a"]).decode() == text or "other data"


def main():
    core.create_namespace({"metadata": {"name": NS}})
    ready, stop = threading.Event(), threading.Event()
    run = lambda: asyncio.run(kopf.operator(namespaces=[NS], standalone=True, ready_flag=ready, stop_flag=stop))
    operator = threading.Thread(target=run)
    operator.start()
    try:
        if not ready.wait(40):
            sys.exit("the operator does not start")
        core.create_namespaced_config_map(NS, {"metadata": {"name": "m", "labels": {"operated": "yes"}}, "data": {"a": "1"}})
        until("the secret is made", secret_is("1"))
        until("the map is marked", lambda: (core.read_namespaced_config_map("m", NS).metadata.annotations or {}).get("example.com/reconciled") == "1")
        held = core.read_namespaced_config_map("m", NS).metadata.finalizers
        assert held == ["kopf.zalando.org/KopfFinalizerMarker"], held
        core.patch_namespaced_config_map("m", NS, {"data": {"a": "2"}})
        until("the secret follows", secret_is("2"))
        before = core.read_namespaced_secret("m", NS).metadata.uid
        core.delete_namespaced_secret("m", NS)
        until("the secret is made again", lambda: core.read_namespaced_secret("m", NS).metadata.uid != before)
        core.delete_namespaced_config_map("m", NS)
        until("the last handler runs", deleted.is_set)
        until("the map goes", lambda: core.list_namespaced_config_map(NS, label_selector="operated").items == [])
        until("its secret goes", lambda: core.list_namespaced_secret(NS).items == [])
    finally:
        stop.set()
        operator.join(30)
    print("kopf: 7 steps")


main()
