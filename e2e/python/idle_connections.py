"""Ten thousand connections that say nothing: `idle_connections.py KUBECONFIG`.

A third is silent, a third begins a TLS handshake, some have a certificate and begin a request. Whoever else comes is
served. Prints how long that took. Python's standard library and kubectl only.
"""

import base64
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse

COUNT = 10_000
WITH_TLS = 300

view = json.loads(subprocess.run(["kubectl", "--kubeconfig", sys.argv[1], "config", "view", "--raw", "-o", "json"], check=True, capture_output=True).stdout)
cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
address = urllib.parse.urlparse(cluster["server"])
context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
with tempfile.TemporaryDirectory() as folder:
    for name in ("certificate", "key"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(base64.b64decode(user[f"client-{name}-data"]))
    context.load_cert_chain(os.path.join(folder, "certificate"), os.path.join(folder, "key"))


def ask(path):
    stream = context.wrap_socket(socket.create_connection((address.hostname, address.port), timeout=30), server_hostname=address.hostname)
    stream.sendall(f"GET {path} HTTP/1.1\r\nhost: {address.hostname}\r\nconnection: close\r\n\r\n".encode())
    text = b""
    while part := stream.recv(65536):
        text += part
    assert text.startswith(b"HTTP/1.1 200"), text[:300]
    return text.decode()


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < COUNT + 100:
        print(f"skipped: this system lets a process open {hard} files only")
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for n in range(COUNT):
        stream = socket.create_connection((address.hostname, address.port), timeout=30)
        if n % 3 == 1:
            stream.sendall(b"\x16\x03\x01\x02")
        elif n % 3 == 2 and n < 3 * WITH_TLS:
            stream = context.wrap_socket(stream, server_hostname=address.hostname)
            stream.sendall(b"GET /readyz HTTP/1.1\r\nhost:")
        held.append(stream)
    start = time.monotonic()
    for _ in range(20):
        ask("/readyz")
    print(f"{len(held)} idle connections: 20 others served in {time.monotonic() - start:.2f} s")


main()
