#!/usr/bin/env python3
"""As much of an API server as Helm needs to render a chart for it: `charts/check` finds out with it what the chart makes of custom resource definitions.

fake-cluster.py FOLDER   prints its port, and answers for the namespace `default` and for FOLDER/<name>.json, each a CustomResourceDefinition. There is nothing else.
"""
import http.server
import json
import pathlib
import sys

# Group and version, and the kinds of it that the chart makes, or looks up: Helm asks for the plural of each.
KINDS = {
    "v1": ["Namespace", "Pod", "ServiceAccount"],
    "apps/v1": ["Deployment"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["ClusterRole", "ClusterRoleBinding"],
    "apiextensions.k8s.io/v1": ["CustomResourceDefinition"],
}
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"

folder = pathlib.Path(sys.argv[1])


def resources(version):
    def one(kind):
        name = kind.lower()
        return {"name": f"{name}s", "singularName": name, "kind": kind, "namespaced": kind not in CLUSTER_WIDE, "verbs": ["get", "list"]}

    return {"kind": "APIResourceList", "groupVersion": version, "resources": [one(kind) for kind in KINDS[version]]}


def groups():
    versions = [{"groupVersion": version, "version": "v1"} for version in KINDS if "/" in version]
    named = [{"name": version["groupVersion"].split("/")[0], "versions": [version], "preferredVersion": version} for version in versions]
    return {"kind": "APIGroupList", "groups": named}


FIXED = {
    "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": groups(),
    "/api/v1/namespaces/default": {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
    **{("/apis/" if "/" in version else "/api/") + version: resources(version) for version in KINDS},
}


def find(path):
    if path.startswith(DEFINITIONS):
        file = folder / f"{path.removeprefix(DEFINITIONS)}.json"
        return json.loads(file.read_text()) if file.is_file() else None
    return FIXED.get(path)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = find(self.path.split("?")[0])
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(missing if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
