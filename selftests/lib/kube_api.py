#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
#
# usage: kube_api.py PORT
#
# As much of a Kubernetes API server as kube-proxy needs: lists and watches of nodes, services, endpoints
# and EndpointSlices, in JSON, on 127.0.0.1. It takes events and forgets them. Says READY when it
# listens, and then does what each line of standard input says, with a line `ok` for each:
#
#   apply OBJECT        create or replace this object (JSON)
#   delete KIND NAME    e.g. EndpointSlice web-x7
#
# Nothing is checked, and there is one namespace.

import itertools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

# What stands in the path: the kind and the API's version.
RESOURCES = {
    "nodes": ("Node", "v1"),
    "services": ("Service", "v1"),
    "endpoints": ("Endpoints", "v1"),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io/v1beta1"),
}


class Store:
    """All objects, and the log of their changes, which is what watches send. The resource version is
    the number of changes so far."""

    def __init__(self):
        self.objects = {}
        self.log = []
        self.changed = threading.Condition()

    def change(self, what, kind, name, new=None):
        with self.changed:
            version = str(len(self.log) + 1)
            old = self.objects.pop((kind, name), None)
            if what == "delete":
                event, changed = "DELETED", dict(old)
            else:
                event, changed = "MODIFIED" if old else "ADDED", new
                self.objects[kind, name] = changed
            meta = changed["metadata"]
            uid = f"{kind}-{name}"
            changed["metadata"] = {"namespace": "default", "uid": uid, **meta, "resourceVersion": version}
            self.log.append((event, changed))
            self.changed.notify_all()

    def list(self, kind):
        """The objects of that kind, and the version of the list."""
        with self.changed:
            found = [o for (k, _), o in self.objects.items() if k == kind]
            return found, str(len(self.log))

    def watch(self, kind, since, seconds):
        """The changes of that kind after version `since`, as they come, for so long."""
        end = time.monotonic() + seconds
        for n in itertools.count(since):
            with self.changed:
                while len(self.log) <= n:
                    left = end - time.monotonic()
                    if left <= 0:
                        return
                    self.changed.wait(left)
                event, changed = self.log[n]
            if changed["kind"] == kind:
                yield {"type": event, "object": changed}


store = Store()


def selected(selector, thing):
    """Whether the object's labels fit. kube-proxy asks for objects without some label: `!a,!b`."""
    labels = thing["metadata"].get("labels", {})
    return not any(term[1:] in labels for term in selector.split(",") if term.startswith("!"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        resource = next((part for part in parts if part in RESOURCES), None)
        if resource is None:
            return self.answer(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})
        kind, version = RESOURCES[resource]
        selector = query.get("labelSelector", "")
        if query.get("watch") in ("1", "true"):
            return self.send_changes(kind, selector, query)
        found, at = store.list(kind)
        if parts[-1] != resource:
            one = [thing for thing in found if thing["metadata"]["name"] == parts[-1]]
            missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            return self.answer(200, one[0]) if one else self.answer(404, missing)
        items = [thing for thing in found if selected(selector, thing)]
        listed = {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": at}}
        return self.answer(200, {**listed, "items": items})

    def send_changes(self, kind, selector, query):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        since = int(query.get("resourceVersion") or 0)
        for event in store.watch(kind, since, int(query.get("timeoutSeconds", 300))):
            if selected(selector, event["object"]):
                data = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(201, json.loads(body))

    do_PATCH = do_POST


def main():
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("READY", flush=True)
    for line in sys.stdin:
        what, _, rest = line.strip().partition(" ")
        if what == "apply":
            thing = json.loads(rest)
            store.change(what, thing["kind"], thing["metadata"]["name"], thing)
        else:
            store.change(what, *rest.split())
        print("ok", flush=True)


main()
