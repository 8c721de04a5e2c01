"""[sig-auth]: certificates, service accounts and their tokens, reviews."""

import base64
import http.client
import json
import re
import socket
import ssl
import subprocess
import urllib.parse

from machinery import REQUEST
from server import PROTOBUF, holds, name_of, object_of, of_group, pod, until

GROUP = "/apis/certificates.k8s.io/v1"


@holds("Certificates API [Privileged:ClusterAdmin] should support CSR API operations")
def certificates(server, ns):
    path, signer = f"{GROUP}/certificatesigningrequests", f"example.com/e2e-{name_of(ns)}"
    mine = f"{path}?fieldSelector=spec.signerName%3D{urllib.parse.quote(signer, '')}"
    assert "v1" in {v["version"] for v in server.get("/apis/certificates.k8s.io")["versions"]}
    found = {r["name"]: set(r["verbs"]) for r in server.get(GROUP)["resources"]}
    assert found["certificatesigningrequests"] == {"create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"}
    assert found["certificatesigningrequests/approval"] == found["certificatesigningrequests/status"] == {"get", "update", "patch"}
    for _ in range(3):
        made = server.create(path, "CertificateSigningRequest", "e2e-example-csr-", spec={
            "request": REQUEST, "signerName": signer, "expirationSeconds": 3600, "usages": ["digital signature", "key encipherment", "server auth"]})
    one, uid = f"{path}/{made['metadata']['name']}", made["metadata"]["uid"]
    found = server.get(one)
    assert found["metadata"]["uid"] == uid and found["spec"]["expirationSeconds"] == 3600, found
    found = server.get(mine)
    assert len(found["items"]) == 3
    by_name = f"fieldSelector=metadata.name%3D{made['metadata']['name']}"
    stream = server.open("GET", f"{path}?watch=1&{by_name}&resourceVersion={found['metadata']['resourceVersion']}")
    patched = server.patch(one, {"metadata": {"annotations": {"patched": "true"}}})
    patched["metadata"]["annotations"]["updated"] = "true"
    updated = server.send("PUT", one, patched)
    assert updated["metadata"]["annotations"] == {"patched": "true", "updated": "true"}
    event = json.loads(stream.readline())
    assert event["type"] == "MODIFIED" and event["object"]["metadata"]["annotations"]["patched"] == "true", event
    stream.close()

    def subresource(name, change, added):
        at = f"{one}/{name}"
        found = server.get(at)
        assert (found["apiVersion"], found["kind"], found["metadata"]["uid"]) == ("certificates.k8s.io/v1", "CertificateSigningRequest", uid), found
        patched = server.patch(at, {"metadata": {"annotations": {f"patched{name}": "true"}}, "status": change})
        assert patched["metadata"]["annotations"][f"patched{name}"] == "true" and change.keys() <= patched["status"].keys(), patched
        conditions = patched["status"].setdefault("conditions", [])
        conditions.append({"type": added, "status": "True", "reason": "E2E", "message": "Set from an e2e test"})
        updated = server.send("PUT", at, patched)
        assert [c["type"] for c in updated["status"]["conditions"]] == [c["type"] for c in conditions], updated
        return updated

    found = subresource("approval", {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}, "Approved")
    assert len(found["status"]["conditions"]) == 2, found
    certificate = base64.b64encode(server.authority.encode()).decode()
    found = subresource("status", {"certificate": certificate}, "StatusUpdate")
    assert found["status"]["certificate"] == certificate and len(found["status"]["conditions"]) == 3, found
    server.delete(one)
    assert server.open("GET", one).status == 404
    assert len(server.get(mine)["items"]) == 2
    server.delete(mine)
    assert not server.get(mine)["items"]


@holds("ServiceAccounts should run through the lifecycle of a ServiceAccount")
def account_life(server, ns):
    path = f"{ns}/serviceaccounts"
    made = server.create(path, "ServiceAccount", "testserviceaccount", metadata={"labels": {"static": "true"}})
    assert server.get(f"{path}/testserviceaccount")["metadata"]["uid"] == made["metadata"]["uid"]
    stream = server.open("GET", f"{path}?watch=1&labelSelector=static%3Dtrue&timeoutSeconds=180")
    kinds = lambda: json.loads(stream.readline())["type"]
    assert kinds() == "ADDED"
    server.patch(f"{path}/testserviceaccount", {"metadata": {"creationTimestamp": None}, "automountServiceAccountToken": False}, "strategic-merge-patch")
    assert kinds() == "MODIFIED"
    found = [a for a in server.get("/api/v1/serviceaccounts?labelSelector=static%3Dtrue")["items"] if a["metadata"]["uid"] == made["metadata"]["uid"]]
    assert found[0]["automountServiceAccountToken"] is False, found
    server.delete(path)
    assert kinds() == "DELETED"


@holds("ServiceAccounts should update a ServiceAccount")
def account_updated(server, ns):
    path = f"{ns}/serviceaccounts"
    made = server.create(path, "ServiceAccount", "e2e", automountServiceAccountToken=False)
    assert made["automountServiceAccountToken"] is False
    assert server.update(f"{path}/e2e", lambda now: now.update(automountServiceAccountToken=True))["automountServiceAccountToken"] is True


@holds("ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace")
def root_certificate(server, ns):
    path = f"{ns}/configmaps/kube-root-ca.crt"
    there = lambda: server.open("GET", path).status == 200
    until(there, "the certificate")
    whole = server.get(path)["data"]["ca.crt"]
    server.delete(path, gracePeriodSeconds=0)
    until(there, "the certificate again")
    server.send("PUT", path, object_of(path, "ConfigMap", "kube-root-ca.crt", data={"ca.crt": ""}))
    until(lambda: server.get(path)["data"].get("ca.crt") == whole, "the certificate mended")


def ask(server, path, kind, **fields):
    """A question to the server in protobuf, as typed clients put it."""
    sent = server.call("POST", path, object_of(path, kind, "", **fields), headers={"Accept": PROTOBUF})
    return server.call("POST", path, sent, headers={"Content-Type": PROTOBUF, "Accept": "application/json"})["status"]


def reviewed(server, token):
    status = ask(server, "/apis/authentication.k8s.io/v1/tokenreviews", "TokenReview", spec={"token": token})
    assert status["authenticated"] and not status.get("error"), status
    return status["user"]


@holds("ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview")
def token_request(server, ns):
    server.create(f"{ns}/serviceaccounts", "ServiceAccount", "e2e")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    sent = server.call("POST", f"{ns}/serviceaccounts/e2e/token", request, headers={"Accept": PROTOBUF})
    found = server.call("POST", f"{ns}/serviceaccounts/e2e/token", sent, headers={"Content-Type": PROTOBUF, "Accept": "application/json"})
    assert reviewed(server, found["status"]["token"])["username"] == f"system:serviceaccount:{name_of(ns)}:e2e"


@holds("ServiceAccounts should allow opting out of API token automount")
def automount(server, ns):
    for name, says in (("mount", True), ("nomount", False)):
        server.create(f"{ns}/serviceaccounts", "ServiceAccount", name, automountServiceAccountToken=says)
    until(lambda: server.open("GET", f"{ns}/serviceaccounts/default").status == 200, "an account")
    for account, of_account in (("default", True), ("mount", True), ("nomount", False)):
        for says in (None, True, False):
            spec = {} if says is None else {"automountServiceAccountToken": says}
            made = server.create(f"{ns}/pods", "Pod", f"{account}-{says}".lower(), **pod(serviceAccountName=account, restartPolicy="Never", **spec))
            mounts = [m["mountPath"] for m in made["spec"]["containers"][0].get("volumeMounts", [])]
            mounted = "/var/run/secrets/kubernetes.io/serviceaccount" in mounts
            assert mounted == (of_account if says is None else says), (account, says)


def kubectl(server, ns, *arguments):
    command = ["kubectl", "--kubeconfig", server.kubeconfig, "-n", name_of(ns), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def phase(server, ns, name, wanted):
    until(lambda: server.get(f"{ns}/pods/{name}").get("status", {}).get("phase") == wanted, lambda: f"{wanted}: {server.get(f'{ns}/pods/{name}')}")
    return server.get(f"{ns}/pods/{name}")


@holds("ServiceAccounts should mount an API token into pods", nodes=1)
def mounted_token(server, ns):
    server.create(f"{ns}/serviceaccounts", "ServiceAccount", "mount-test")
    sleeps = {"image": server.image, "command": ["sleep", "100000"]}
    server.create(f"{ns}/pods", "Pod", "test", **pod(sleeps, serviceAccountName="mount-test", restartPolicy="Never", terminationGracePeriodSeconds=0))
    found = phase(server, ns, "test", "Running")
    node, namespace = server.get(f"/api/v1/nodes/{found['spec']['nodeName']}"), name_of(ns)
    read = lambda file: kubectl(server, ns, "exec", "test", "--", "cat", f"/var/run/secrets/kubernetes.io/serviceaccount/{file}")
    assert read("ca.crt") == server.get(f"{ns}/configmaps/kube-root-ca.crt")["data"]["ca.crt"]
    assert read("namespace") == namespace
    user = reviewed(server, read("token"))
    assert user["username"] == f"system:serviceaccount:{namespace}:mount-test", user
    assert set(user["groups"]) == {"system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{namespace}"}, user
    extra = {key.removeprefix("authentication.kubernetes.io/"): value for key, value in user["extra"].items()}
    assert len(extra["credential-id"]) == 1 and extra.pop("credential-id")[0].startswith("JTI="), user
    uid = found["metadata"]["uid"]
    assert extra == {"pod-name": ["test"], "pod-uid": [uid], "node-name": [node["metadata"]["name"]], "node-uid": [node["metadata"]["uid"]]}, extra


def projected(path, **token):
    """What a pod needs to have a token of its own in a file."""
    volume = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": path, **token}}]}}
    return {"name": "token", "mountPath": "/token", "readOnly": True}, [volume]


@holds("ServiceAccounts should mount projected service account token", nodes=1)
def projected_token(server, ns):
    mount, volumes = projected("token", expirationSeconds=3600)
    prints = {"image": server.image, "command": ["cat", "/token/token"], "volumeMounts": [mount]}
    server.create(f"{ns}/pods", "Pod", "test", **pod(prints, volumes=volumes, restartPolicy="Never"))
    phase(server, ns, "test", "Succeeded")
    said = kubectl(server, ns, "logs", "test")
    assert re.fullmatch(r"[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+\.?[A-Za-z0-9-_.+/=]*\n?", said), said


def part(token, number):
    text = token.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@holds("ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer", nodes=1)
def issuer_discovery(server, ns):
    """From the node, by the addresses that a pod uses: everything that a verifier of its token fetches."""
    namespace, bindings = name_of(ns), "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    binding = server.create(bindings, "ClusterRoleBinding", f"{namespace}-", subjects=[{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
                  roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"})
    mount, volumes = projected("sa-token", expirationSeconds=600, audience="oidc-discovery-test")
    both = "cat /token/sa-token; echo; cat /var/run/secrets/kubernetes.io/serviceaccount/token"
    prints = {"image": server.image, "command": ["sh", "-c", both], "volumeMounts": [mount]}
    server.create(f"{ns}/pods", "Pod", "test", **pod(prints, volumes=volumes, restartPolicy="Never"))
    phase(server, ns, "test", "Succeeded")
    tokens = kubectl(server, ns, "logs", "test").split()
    claims = part(tokens[0], 1)
    assert claims["aud"] == ["oidc-discovery-test"] and claims["sub"] == f"system:serviceaccount:{namespace}:default", claims
    service = server.get("/api/v1/namespaces/default/services/kubernetes")["spec"]
    trust = ssl.create_default_context(cadata=server.authority)

    def fetch(url):
        url = urllib.parse.urlparse(url)
        where = (service["clusterIP"], 443) if url.hostname.startswith("kubernetes.default") else (url.hostname, url.port or 443)
        connection = http.client.HTTPSConnection(url.hostname, context=trust)
        connection.sock = trust.wrap_socket(socket.create_connection(where, 10), server_hostname=url.hostname)
        connection.request("GET", url.path, headers={"Authorization": f"Bearer {tokens[1]}"})
        answer = connection.getresponse()
        assert answer.status == 200, (url, answer.status, answer.read())
        return json.loads(answer.read())

    found = fetch(claims["iss"] + "/.well-known/openid-configuration")
    assert found["issuer"] == claims["iss"] and found["id_token_signing_alg_values_supported"], found
    keys = fetch(found["jwks_uri"])["keys"]
    assert part(tokens[0], 0)["kid"] in {key["kid"] for key in keys}, keys
    server.delete(f"{bindings}/{binding['metadata']['name']}")


@holds("SubjectReview should support SubjectReview API operations")
def subject_reviews(server, ns):
    """The reviews say what the subject may really do, also after it was allowed."""
    namespace, group = name_of(ns), "/apis/authorization.k8s.io/v1"
    account = server.create(f"{ns}/serviceaccounts", "ServiceAccount", "e2e")
    user, uid = f"system:serviceaccount:{namespace}:e2e", account["metadata"]["uid"]
    groups = ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    other = server.but({"Impersonate-User": user, "Impersonate-Uid": uid, "Impersonate-Group": groups})
    rbac = of_group(ns, "rbac.authorization.k8s.io/v1")
    wanted = {"verb": "list", "resource": "configmaps", "namespace": namespace, "version": "v1"}
    for may in (False, True):
        if may:
            server.create(f"{rbac}/roles", "Role", "lists", rules=[{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])
            server.create(f"{rbac}/rolebindings", "RoleBinding", "lists", subjects=[{"kind": "ServiceAccount", "name": "e2e", "namespace": namespace}],
                          roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lists"})
        until(lambda: other.open("GET", f"{ns}/configmaps").status == (200 if may else 403), "that it may" if may else "that it may not")
        spec = {"resourceAttributes": wanted, "user": user, "groups": groups, "uid": uid}
        assert ask(server, f"{group}/subjectaccessreviews", "SubjectAccessReview", spec=spec)["allowed"] == may
        local = of_group(ns, "authorization.k8s.io/v1") + "/localsubjectaccessreviews"
        assert ask(server, local, "LocalSubjectAccessReview", metadata={"namespace": namespace}, spec=spec)["allowed"] == may
