"""A small Hugging Face hub on loopback: repositories in memory, with what `huggingface_hub` asks of the real one."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name, each {file name: bytes}; `gated` names refuse access; `requests` lists what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    """Answers of the hub's API, as far as downloads of snapshots and uploads of small folders need it."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.model_info("/".join(parts[2:4]), parts[4:])
        repository, files = "/".join(parts[:2]), self.hub.repositories.get("/".join(parts[:2]))
        if files is None or repository in self.hub.gated:
            return self.refuse(repository)
        content = files.get("/".join(parts[4:]))
        if parts[2:3] != ["resolve"] or content is None:
            return self.answer(404, X_Error_Code="EntryNotFound")
        etag = hashlib.sha1(content).hexdigest()
        return self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")

    do_HEAD = do_GET

    def model_info(self, repository: str, rest: list[str]) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            return self.refuse(repository)
        if rest[:1] == ["tree"]:
            return self.answer_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        if rest[:1] == ["revision"] and "/".join(rest[1:]) not in ("main", COMMIT, "v1"):
            return self.answer_json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        return self.answer_json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings})

    def refuse(self, repository: str) -> None:
        if repository in self.hub.gated:
            return self.answer_json({"error": "gated"}, 403, X_Error_Code="GatedRepo")
        return self.answer_json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path.partition("?")[0])
        if not self.headers.get("Authorization"):
            return self.answer_json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            value = json.loads(body)
            name = f"{value.get('organization', 'me')}/{value['name']}"
            self.hub.repositories.setdefault(name, {})
            return self.answer_json({"url": f"{self.hub.address}/{name}"})
        if path == "/api/validate-yaml":  # of a model card
            return self.answer_json({"errors": [], "warnings": []})
        parts = path.strip("/").split("/")
        repository = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer_json({"files": files})
        if parts[4] == "commit":
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.repositories[repository][line["value"]["path"]] = content
            url = f"{self.hub.address}/{repository}/commit/{COMMIT}"
            return self.answer_json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        return self.answer(404)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub while the context lasts, at its `address`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
