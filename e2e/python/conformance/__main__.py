"""What Kubernetes' conformance descriptions ask of an API server with its controllers.

    python3 conformance KUBECONFIG [--image IMAGE] [WORDS...]

Every test has the name that its description has upstream, and does what the suite does there, with the values that it
uses. Objects are sent in protobuf, as the suite sends them. With an image (of a busybox) pods run, and descriptions that
need nodes are tried where there are enough. Python's standard library and kubectl only. Prints what does not hold, and
at last how many were tried.

Where the list of descriptions is beside the checkout, each one of these groups must be here or in `NOT_HERE`.
"""

import pathlib
import re
import sys
import traceback

import auth
import events
import garbage
import machinery
import quota
from server import TESTS, Server, holds, usable_nodes

GROUPS = ("sig-api-machinery", "sig-auth", "sig-instrumentation", "sig-architecture")
LIST = pathlib.Path(__file__).resolve().parents[4] / "shared/reference/conformance-1.36.yaml"
# How descriptions begin that are not tried here, and why.
NOT_HERE = {
    "AdmissionWebhook [Privileged:ClusterAdmin]": "webhooks are not called yet",
    "ValidatingAdmissionPolicy [Privileged:ClusterAdmin]": "policies are not evaluated yet",
    "MutatingAdmissionPolicy [Privileged:ClusterAdmin]": "policies are not evaluated yet",
    "CustomResource": "custom resources are not served yet",
    "AggregatedDiscovery should support raw aggregated discovery request for CRDs": "custom resources are not served yet",
    "AggregatedDiscovery should support aggregated discovery interface for CRDs": "custom resources are not served yet",
    "FieldValidation should create/apply": "custom resources are not served yet",
    "FieldValidation should detect duplicates in a CR": "custom resources are not served yet",
    "FieldValidation should detect unknown metadata fields in both": "custom resources are not served yet",
    "Aggregator": "other API servers are not proxied yet",
    "Servers with support for API chunking should support continue listing": "takes minutes: apiserver/tests/server/pages.rs and consensus/src/history.rs",
}


@holds("Conformance Tests should have at least two untainted nodes", nodes=2)
def two_nodes(server, _):
    assert len(usable_nodes(server)) >= 2


def not_accounted():
    """Descriptions that nobody holds, and tests of no description."""
    if not LIST.exists():
        return []
    found = re.findall(r"codename: '\[([\w-]+)\] (.*?)\s\[Conformance\]'", LIST.read_text().replace("''", "\0"), re.S)
    wanted = {re.sub(r"\s+", " ", name).strip().replace("\0", "'") for group, name in found if group in GROUPS}
    missing = sorted(name for name in wanted - set(TESTS) if not name.startswith(tuple(NOT_HERE)))
    return [f"nothing holds: {name}" for name in missing] + [f"no such description: {name}" for name in sorted(set(TESTS) - wanted)]


def main():
    arguments, image = sys.argv[1:], None
    if "--image" in arguments:
        at = arguments.index("--image")
        image = arguments[at + 1]
        del arguments[at:at + 2]
    server, words = Server(arguments[0]), arguments[1:]
    server.image = image
    nodes = len(usable_nodes(server)) if image else 0
    failed = not_accounted()
    print(*failed, sep="\n")
    chosen = [(name, test) for name, (test, needed) in TESTS.items() if needed <= nodes and all(word in name for word in words)]
    for name, test in chosen:
        namespaces = "/api/v1/namespaces"
        ns = f"{namespaces}/{server.create(namespaces, 'Namespace', 'conformance-')['metadata']['name']}"
        try:
            test(server, ns)
        except Exception:
            failed.append(name)
            print(f"does not hold: {name}")
            traceback.print_exc(file=sys.stdout)
        finally:
            server.delete(ns)
    print(f"{len(chosen)} tried on {nodes} nodes, {len(failed)} do not hold")
    sys.exit(1 if failed else 0)


main()
