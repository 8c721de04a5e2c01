"""Every kind that the Python client knows, through its typed classes and its dynamic client.

Usage: every_kind.py KUBECONFIG. Each kind is created, read, listed in pages, patched in three ways, replaced, applied,
watched and deleted; `status` and `scale` are read and written where there are any. Prints one line for each kind that
failed and `N kinds, N failed` at the end.
"""

import base64
import json
import re
import subprocess
import sys
import tempfile
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

NS = "python"


def certificate_request():
    with tempfile.TemporaryDirectory() as folder:
        make = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", folder + "/key", "-subj", "/CN=x"]
        return base64.b64encode(subprocess.run(make, check=True, capture_output=True).stdout).decode()


REQUEST = certificate_request()
ctr = {'containers': [{'name': 'c', 'image': 'i'}]}
tmpl = {'metadata': {'labels': {'a': 'b'}}, 'spec': ctr}
jt = {'metadata': {'labels': {'a': 'b'}}, 'spec': dict(ctr, restartPolicy='Never')}
sel = {'matchLabels': {'a': 'b'}}
hook = {'name': 'a.b.c', 'clientConfig': {'url': 'https://x.y/z'}, 'sideEffects': 'None', 'admissionReviewVersions': ['v1'],
        'rules': [{'apiGroups': ['x.y'], 'apiVersions': ['v1'], 'operations': ['CREATE'], 'resources': ['zs']}]}
pol = {'matchConstraints': {'resourceRules': hook['rules']}}
OBJ = {
 ('', 'ConfigMap'): {'data': {'a': 'b'}}, ('', 'Secret'): {'stringData': {'a': 'b'}},
 ('', 'Endpoints'): {'subsets': [{'addresses': [{'ip': '10.1.2.3'}], 'ports': [{'port': 80}]}]},
 ('', 'Event'): {'involvedObject': {'namespace': NS, 'kind': 'Pod', 'name': 'x'}, 'reason': 'r', 'message': 'm', 'type': 'Normal'},
 ('', 'LimitRange'): {'spec': {'limits': [{'type': 'Pod', 'max': {'cpu': '100'}}]}},
 ('', 'Namespace'): {}, ('', 'Node'): {},
 ('', 'PersistentVolumeClaim'): {'spec': {'accessModes': ['ReadWriteOnce'], 'resources': {'requests': {'storage': '1Gi'}}}},
 ('', 'PersistentVolume'): {'spec': {'accessModes': ['ReadWriteOnce'], 'capacity': {'storage': '1Gi'}, 'hostPath': {'path': '/x'}}},
 ('', 'Pod'): {'spec': ctr}, ('', 'PodTemplate'): {'template': tmpl},
 ('', 'ReplicationController'): {'spec': {'replicas': 0, 'selector': {'a': 'b'}, 'template': tmpl}},
 ('', 'ResourceQuota'): {'spec': {'hard': {'pods': '100'}}}, ('', 'Service'): {'spec': {'ports': [{'port': 80}]}},
 ('', 'ServiceAccount'): {},
 ('admissionregistration.k8s.io', 'MutatingAdmissionPolicy'): {'spec': dict(pol, reinvocationPolicy='Never', failurePolicy='Fail', mutations=[{'patchType': 'ApplyConfiguration', 'applyConfiguration': {'expression': 'Object{}'}}])},
 ('admissionregistration.k8s.io', 'MutatingAdmissionPolicyBinding'): {'spec': {'policyName': 'x'}},
 ('admissionregistration.k8s.io', 'ValidatingAdmissionPolicy'): {'spec': dict(pol, validations=[{'expression': 'true'}])},
 ('admissionregistration.k8s.io', 'ValidatingAdmissionPolicyBinding'): {'spec': {'policyName': 'x', 'validationActions': ['Deny']}},
 ('admissionregistration.k8s.io', 'MutatingWebhookConfiguration'): {'webhooks': [hook]},
 ('admissionregistration.k8s.io', 'ValidatingWebhookConfiguration'): {'webhooks': [hook]},
 ('apiextensions.k8s.io', 'CustomResourceDefinition'): {'name': '%ss.x.y', 'spec': {'group': 'x.y', 'scope': 'Namespaced', 'names': {'plural': '%ss', 'kind': 'Kind%s'}, 'versions': [{'name': 'v1', 'served': True, 'storage': True, 'schema': {'openAPIV3Schema': {'type': 'object'}}}]}},
 ('apiregistration.k8s.io', 'APIService'): {'name': 'v1.%s.example.com', 'spec': {'group': '%s.example.com', 'version': 'v1', 'groupPriorityMinimum': 100, 'versionPriority': 10, 'service': {'name': 'x', 'namespace': 'default'}}},
 ('apps', 'ControllerRevision'): {'revision': 1, 'data': {'x': 'y'}},
 ('apps', 'DaemonSet'): {'spec': {'selector': sel, 'template': tmpl}},
 ('apps', 'Deployment'): {'spec': {'replicas': 0, 'selector': sel, 'template': tmpl}},
 ('apps', 'ReplicaSet'): {'spec': {'replicas': 0, 'selector': sel, 'template': tmpl}},
 ('apps', 'StatefulSet'): {'spec': {'replicas': 0, 'serviceName': 's', 'selector': sel, 'template': tmpl}},
 ('autoscaling', 'HorizontalPodAutoscaler'): {'spec': {'maxReplicas': 3, 'scaleTargetRef': {'apiVersion': 'apps/v1', 'kind': 'Deployment', 'name': 'x'}}},
 ('batch', 'CronJob'): {'spec': {'schedule': '0 0 1 1 *', 'jobTemplate': {'spec': {'template': jt}}}},
 ('batch', 'Job'): {'spec': {'suspend': True, 'template': jt}},
 ('certificates.k8s.io', 'CertificateSigningRequest'): {'spec': {'request': REQUEST, 'signerName': 'x.y/z', 'usages': ['client auth']}},
 ('coordination.k8s.io', 'Lease'): {'spec': {'holderIdentity': 'x'}},
 ('discovery.k8s.io', 'EndpointSlice'): {'addressType': 'IPv4', 'endpoints': [{'addresses': ['10.1.2.3']}], 'ports': []},
 ('events.k8s.io', 'Event'): {'eventTime': '2026-01-01T00:00:00.000000Z', 'reportingController': 'x.y/z', 'reportingInstance': 'i', 'action': 'a', 'reason': 'r', 'type': 'Normal', 'regarding': {'kind': 'Pod', 'name': 'x', 'namespace': NS}},
 ('flowcontrol.apiserver.k8s.io', 'FlowSchema'): {'spec': {'priorityLevelConfiguration': {'name': 'exempt'}, 'matchingPrecedence': 9000}},
 ('flowcontrol.apiserver.k8s.io', 'PriorityLevelConfiguration'): {'spec': {'type': 'Limited', 'limited': {'limitResponse': {'type': 'Reject'}}}},
 ('networking.k8s.io', 'IPAddress'): {'name': '10.99.0.%n', 'spec': {'parentRef': {'resource': 'services', 'namespace': 'x', 'name': 'y'}}},
 ('networking.k8s.io', 'ServiceCIDR'): {'spec': {'cidrs': ['10.88.%n.0/24']}},
 ('networking.k8s.io', 'Ingress'): {'spec': {'defaultBackend': {'service': {'name': 's', 'port': {'number': 80}}}}},
 ('networking.k8s.io', 'IngressClass'): {'spec': {'controller': 'x.y/z'}},
 ('networking.k8s.io', 'NetworkPolicy'): {'spec': {'podSelector': {}}},
 ('node.k8s.io', 'RuntimeClass'): {'handler': 'x'},
 ('policy', 'PodDisruptionBudget'): {'spec': {'minAvailable': 1, 'selector': sel}},
 ('rbac.authorization.k8s.io', 'ClusterRole'): {'rules': []},
 ('rbac.authorization.k8s.io', 'Role'): {'rules': []},
 ('rbac.authorization.k8s.io', 'ClusterRoleBinding'): {'roleRef': {'apiGroup': 'rbac.authorization.k8s.io', 'kind': 'ClusterRole', 'name': 'view'}},
 ('rbac.authorization.k8s.io', 'RoleBinding'): {'roleRef': {'apiGroup': 'rbac.authorization.k8s.io', 'kind': 'ClusterRole', 'name': 'view'}},
 ('resource.k8s.io', 'DeviceClass'): {'spec': {}},
 ('resource.k8s.io', 'ResourceClaim'): {'spec': {}},
 ('resource.k8s.io', 'ResourceClaimTemplate'): {'spec': {'spec': {}}},
 ('resource.k8s.io', 'ResourceSlice'): {'spec': {'driver': 'x.y', 'nodeName': 'n', 'pool': {'name': 'p', 'generation': 1, 'resourceSliceCount': 1}}},
 ('scheduling.k8s.io', 'PriorityClass'): {'value': 5},
 ('storage.k8s.io', 'CSIDriver'): {'spec': {}}, ('storage.k8s.io', 'CSINode'): {'spec': {'drivers': []}},
 ('storage.k8s.io', 'CSIStorageCapacity'): {'storageClassName': 'x'},
 ('storage.k8s.io', 'StorageClass'): {'provisioner': 'x.y/z'},
 ('storage.k8s.io', 'VolumeAttachment'): {'spec': {'attacher': 'x.y', 'nodeName': 'n', 'source': {'persistentVolumeName': 'x'}}},
 ('storage.k8s.io', 'VolumeAttributesClass'): {'driverName': 'x.y', 'parameters': {'a': 'b'}},
}

# Questions and answers that are not stored.
VIRTUAL = {
    "Binding",
    "ComponentStatus",
    "TokenReview",
    "SelfSubjectReview",
    "SubjectAccessReview",
    "LocalSubjectAccessReview",
    "SelfSubjectAccessReview",
    "SelfSubjectRulesReview",
}
# The client itself cannot read these: a class that it does not have, a null that its model refuses.
CLIENT_CANNOT = {"ResourceClaim", "CSINode"}
PATCHES = {
    "application/json-patch+json": [{"op": "add", "path": "/metadata/labels/json", "value": "1"}],
    "application/merge-patch+json": {"metadata": {"labels": {"merge": "1"}}},
    "application/strategic-merge-patch+json": {"metadata": {"labels": {"strategic": "1"}}},
}


def snake(text):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text).lower()


def until_free(write):
    """Writes again while somebody else is faster."""
    for _ in range(10):
        try:
            return write()
        except ApiException as error:
            if error.status != 409:
                raise
    raise AssertionError("always in conflict")


class Kind:
    def __init__(self, dyn, group, version, kind, namespaced):
        self.group, self.kind = group, kind
        self.api_version = f"{group}/{version}" if group else version
        parts = (group.replace(".k8s.io", "") or "core").replace(".", "-").split("-")
        name = "".join(part.capitalize() for part in parts) + version[0].upper() + version[1:] + "Api"
        self.typed = getattr(client, name)()
        self.dynamic = dyn.resources.get(api_version=self.api_version, kind=kind)
        self.verb = ("namespaced_" if namespaced else "") + snake(kind)
        self.where = (NS,) if namespaced else ()
        self.named = {"namespace": NS} if namespaced else {}

    def method(self, verb, suffix=""):
        return getattr(self.typed, verb + "_" + self.verb + suffix, None)

    def call(self, verb, *arguments, **options):
        return self.method(verb)(*arguments, **options)

    def object(self, number):
        text = json.dumps(OBJ[(self.group, self.kind)]).replace("%s", f"py{number}n").replace("%n", str(number))
        value = json.loads(text)
        name = value.pop("name", f"py-{number}")
        metadata = {"name": name, "labels": {"py": "x"}}
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata, **value}

    def check(self):
        names = [self.object(number)["metadata"]["name"] for number in (1, 2, 3)]
        for number in (1, 2, 3):
            self.call("create", *self.where, self.object(number))
        try:
            self.call("create", *self.where, self.object(1))
            raise AssertionError("created twice")
        except ApiException as error:
            assert error.status == 409, error
        seen, token = [], None
        while True:
            more = {"_continue": token} if token else {}
            page = self.call("list", *self.where, limit=2, label_selector="py=x", **more)
            seen += [item.metadata.name for item in page.items]
            token = page.metadata._continue
            if not token:
                break
        assert sorted(seen) == sorted(names), seen
        revision = page.metadata.resource_version
        for content_type, patch in PATCHES.items():
            patched = self.dynamic.patch(name=names[0], body=patch, content_type=content_type, **self.named)
        assert {"json", "merge", "strategic"} <= set(patched.metadata.labels.to_dict()), patched
        self.call("patch", names[0], *self.where, {"metadata": {"annotations": {"typed": "1"}}})
        self.replace(names[0])
        self.apply(names[1])
        self.watch(revision)
        self.subresources(names[0])
        self.call("delete", names[0], *self.where)
        if self.method("delete_collection"):
            self.call("delete_collection", *self.where, label_selector="py=x")
        else:
            [self.call("delete", name, *self.where) for name in names[1:]]
        deadline = time.monotonic() + 10
        while left := self.call("list", *self.where, label_selector="py=x").items:
            assert time.monotonic() < deadline, f"still there: {left[0].metadata}"
            time.sleep(0.1)

    def replace(self, name):
        def write():
            current = self.call("read", name, *self.where)
            current.metadata.labels["replaced"] = "1"
            return self.call("replace", name, *self.where, current)

        assert until_free(write).metadata.labels["replaced"] == "1"

    def apply(self, name):
        wanted = self.object(2)
        wanted["metadata"]["annotations"] = {"applied": "1"}
        applied = self.dynamic.server_side_apply(
            body=wanted, name=name, field_manager="py", force_conflicts=True, **self.named
        )
        assert applied.metadata.annotations["applied"] == "1"
        managers = [(entry.manager, entry.operation) for entry in applied.metadata.managedFields]
        assert ("py", "Apply") in managers, managers

    def watch(self, revision):
        kinds, watcher = [], watch.Watch()
        stream = watcher.stream(
            self.method("list"), *self.where, label_selector="py=x", resource_version=revision, timeout_seconds=5
        )
        for event in stream:
            kinds.append(event["type"])
            if len(kinds) >= 3:
                watcher.stop()
        assert len(kinds) >= 3 and set(kinds) <= {"ADDED", "MODIFIED", "DELETED"}, kinds

    def subresources(self, name):
        if self.method("read", "_status"):
            self.method("patch", "_status")(name, *self.where, {"metadata": {"annotations": {"status": "1"}}})
            read = lambda: self.method("read", "_status")(name, *self.where)
            until_free(lambda: self.method("replace", "_status")(name, *self.where, read()))
        if self.method("read", "_scale"):
            self.method("patch", "_scale")(name, *self.where, {"spec": {"replicas": 0}})
            read = lambda: self.method("read", "_scale")(name, *self.where)
            until_free(lambda: self.method("replace", "_scale")(name, *self.where, read()))


def main():
    config.load_kube_config(sys.argv[1])
    dyn = dynamic.DynamicClient(client.ApiClient())
    client.CoreV1Api().create_namespace({"metadata": {"name": NS}})
    found = {
        (r.group or "", r.api_version, r.kind, r.namespaced)
        for r in dyn.resources.search()
        if r.name and "/" not in r.name and not r.kind.endswith("List")
    }
    checked = failed = 0
    for group, version, kind, namespaced in sorted(found):
        if kind in VIRTUAL or kind in CLIENT_CANNOT:
            continue
        checked += 1
        try:
            Kind(dyn, group, version, kind, namespaced).check()
        except Exception as error:
            failed += 1
            print(f"{group}/{version} {kind}: {type(error).__name__}: {str(error)[:500]}")
    print(f"{checked} kinds, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
