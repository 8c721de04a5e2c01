"""A client with the standard library only, and what the descriptions share."""

import base64
import http.client
import json
import ssl
import subprocess
import tempfile
import time
import urllib.parse

LIMIT_S = 30
PROTOBUF = "application/vnd.kubernetes.protobuf"
TESTS = {}


def holds(name, *arguments, nodes=0):
    """Keeps a function as the test of a description that needs so many nodes; one serves several with its arguments."""

    def keep(test):
        assert name not in TESTS, name
        TESTS[name] = (lambda server, ns: test(server, ns, *arguments), nodes)
        return test

    return keep


class Conflict(AssertionError):
    """Somebody else was faster."""


class Server:
    def __init__(self, kubeconfig, headers=None):
        text = subprocess.run(["kubectl", "config", "view", "--raw", "--minify", "-o", "json", "--kubeconfig", kubeconfig],
                              capture_output=True, text=True, check=True).stdout
        config = json.loads(text)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.kubeconfig = kubeconfig
        self.address = urllib.parse.urlparse(cluster["server"]).netloc
        self.authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=self.authority)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.tls.load_cert_chain(pair.name)
        self.headers = headers or {}

    def but(self, headers, tls=None):
        """The same server with other headers, and other credentials."""
        other = object.__new__(Server)
        other.__dict__.update(self.__dict__, headers=headers, tls=tls or self.tls)
        return other

    def open(self, method, path, body=None, headers=None):
        """The answer to one request. A body is JSON text, bytes, or what becomes JSON."""
        connection = http.client.HTTPSConnection(self.address, context=self.tls, timeout=LIMIT_S)
        connection.putrequest(method, path)
        for name, values in {"Content-Type": "application/json", **self.headers, **(headers or {})}.items():
            for value in values if isinstance(values, list) else [values] if values else []:
                connection.putheader(name, value)
        body = body if body is None or isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body)
        return connection.getresponse()

    def call(self, method, path, body=None, want=(200, 201, 202), headers=None):
        answer = self.open(method, path, body, headers)
        text = answer.read()
        if answer.status == 409 and want == (200, 201):
            raise Conflict(path)
        assert answer.status in (want if isinstance(want, tuple) else (want,)), f"{method} {path}: {answer.status} {text[:400]}"
        return json.loads(text) if text[:1] == b"{" else text

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def send(self, method, path, body, want=(200, 201)):
        """Sends an object as typed clients do: in protobuf, which the server itself makes of it in a dry run."""
        tried = self.call(method, f"{path}?dryRun=All", body, want, headers={"Accept": PROTOBUF})
        assert tried[:4] == b"k8s\0", tried[:400]
        return self.call(method, path, tried, want, headers={"Content-Type": PROTOBUF, "Accept": "application/json"})

    def create(self, path, kind, name, **fields):
        return self.send("POST", path, object_of(path, kind, name, **fields))

    def refuses(self, path, kind, name, code, **fields):
        """What the server says when it does not create an object."""
        return self.call("POST", path, object_of(path, kind, name, **fields), want=code)["message"]

    def update(self, path, change, at=""):
        """Reads, changes and writes, again while somebody else is faster."""
        for last in (False, False, False, False, True):
            found = self.get(path)
            change(found)
            try:
                return self.send("PUT", path + at, found)
            except Conflict:
                if last:
                    raise

    def patch(self, path, body, kind="merge-patch"):
        return self.call("PATCH", path, body, headers={"Content-Type": f"application/{kind}+json"})

    def delete(self, path, want=200, **options):
        """Deletes as typed clients do, with options of the object's group in protobuf."""
        body = envelope(group_of(path), "DeleteOptions", delete_options(**options))
        return self.call("DELETE", path, body, want, headers={"Content-Type": PROTOBUF, "Accept": "application/json"})

    def gone(self, path):
        until(lambda: self.open("GET", path).status == 404, f"{path} gone")

    def watch(self, path, until_type=None, count=None):
        """The types and objects of the next `count` events, or all up to one of a type."""
        answer = self.open("GET", path)
        assert answer.status == 200, answer.read()
        events = []
        while len(events) != count:
            event = json.loads(answer.readline())
            events.append((event["type"], event["object"]))
            if event["type"] == until_type:
                break
        answer.close()
        return events


def until(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what() if callable(what) else what}"
        time.sleep(0.05)


def tagged(number, body):
    """A field of a protobuf message; short ones only."""
    if isinstance(body, int):
        return bytes([number << 3, body])
    body = body.encode() if isinstance(body, str) else body
    return bytes([number << 3 | 2, len(body)]) + body


def envelope(version, kind, message):
    meta = tagged(1, tagged(1, version) + tagged(2, kind))
    return b"k8s\0" + meta + tagged(2, message) + tagged(3, "") + tagged(4, "")


def delete_options(gracePeriodSeconds=None, uid=None, propagationPolicy=None):
    fields = ((1, gracePeriodSeconds), (2, uid and tagged(1, uid)), (4, propagationPolicy))
    return b"".join(tagged(number, value) for number, value in fields if value is not None)


def group_of(path):
    parts = path.split("/")
    return f"{parts[2]}/{parts[3]}" if parts[1] == "apis" else "v1"


def object_of(path, kind, name, **fields):
    """An object for a collection; a name that ends with a dash is made longer by the server."""
    metadata = {"generateName" if name.endswith("-") else "name": name, **fields.pop("metadata", {})}
    return {"apiVersion": group_of(path), "kind": kind, "metadata": metadata, **fields}


def name_of(ns):
    return ns.rsplit("/", 1)[1]


def of_group(ns, group):
    """The namespace's path in another group."""
    return ns.replace("/api/v1", f"/apis/{group}")


def pod(container=None, **spec):
    return {"spec": {"containers": [{"name": "main", "image": "none", **(container or {})}], **spec}}


def pods_of(labels, replicas, **selector):
    template = {"metadata": {"labels": labels}, **pod(terminationGracePeriodSeconds=0)}
    return {"spec": {"replicas": replicas, "selector": selector or labels, "template": template}}


def usable_nodes(server):
    """Nodes that take any pod."""
    fit = lambda node: (condition(node, "Ready") or {}).get("status") == "True" and not node["spec"].get("taints")
    return [node for node in server.get("/api/v1/nodes")["items"] if fit(node)]


def names(found):
    return {item["metadata"]["name"] for item in found["items"]}


def condition(found, kind):
    return next((c for c in found.get("status", {}).get("conditions", []) if c["type"] == kind), None)
