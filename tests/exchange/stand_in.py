"""A stand-in for the Hugging Face hub: the part of its HTTP API that huggingface_hub uses here.

It keeps repositories in memory. Tokens: "writer" belongs to the user "me", "reader" may only read.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LICENSES = {"apache-2.0", "mit", "unknown"}
USERS = {"writer": "me", "reader": "me"}


class Hub:
    """What the server knows, and what was asked of it.

    Attributes:
        repositories: by id, the commits: (hash, files by name).
        requests: "METHOD path" in order.
        private: ids that were created as private.
        broken: answers every request with an error of the server.
    """

    def __init__(self):
        self.endpoint = ""
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[str] = []
        self.private: set[str] = set()
        self.broken = False

    def commit(self, repo_id: str, files: dict[str, bytes]) -> str:
        """Adds files to what is there, in one commit."""
        commits = self.repositories.setdefault(repo_id, [])
        tree = (dict(commits[-1][1]) if commits else {}) | files
        name = hashlib.sha1(f"{repo_id}{len(commits)}".encode()).hexdigest()
        commits.append((name, tree))
        return name

    def files(self, repo_id: str) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.repositories[repo_id][-1][1]

    def at(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories[repo_id]
        if revision == "main":
            return commits[-1]
        return next((each for each in commits if each[0] == revision), None)


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    handler = type("BoundHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        path = self._path()
        if self.hub.broken:
            return self._json(500, {"error": "out of order"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            repo_id, kind, revision = match.groups()
            if (found := self._find(repo_id, revision or "main")) is None:
                return None
            commit, files = found
            if kind == "tree":
                return self._json(200, [_entry(name, data) for name, data in files.items()])
            siblings = [{"rfilename": name} for name in files]
            private = repo_id in self.hub.private
            told = {"id": repo_id, "sha": commit, "siblings": siblings, "private": private}
            return self._json(200, told)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo_id, revision, name = match.groups()
            if (found := self._find(repo_id, revision)) is None:
                return None
            commit, files = found
            if name not in files:
                return self._error(404, "EntryNotFound", "Entry not found")
            etag = {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": commit}
            return self._send(200, files[name], etag)
        return self._error(404, "NotFound", "there is no such page")

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.broken:
            return self._json(500, {"error": "out of order"})
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in USERS:
            return self._error(401, None, "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            if not self._may_write(token, asked["organization"]):
                return None
            repo_id = f"{asked['organization']}/{asked['name']}"
            exists = repo_id in self.hub.repositories
            if not exists:
                self.hub.commit(repo_id, {".gitattributes": b""})
                if asked.get("visibility") == "private":
                    self.hub.private.add(repo_id)
            return self._json(409 if exists else 200, {"url": f"{self.hub.endpoint}/{repo_id}"})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if match is None:
            return self._error(404, "NotFound", "there is no such page")
        repo_id, kind = match.groups()
        if not self._may_write(token, repo_id.split("/")[0]):
            return None
        if kind == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": each["path"]} | modes for each in json.loads(body)["files"]]
            return self._json(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        commit = self.hub.commit(repo_id, added)
        address = f"{self.hub.endpoint}/{repo_id}/commit/{commit}"
        return self._json(200, {"success": True, "commitOid": commit, "commitUrl": address})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _find(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if repo_id not in self.hub.repositories:
            self._error(401, "RepoNotFound", "Invalid username or password.")
            return None
        if (found := self.hub.at(repo_id, revision)) is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _may_write(self, token: str, owner: str | None) -> bool:
        if token == "writer" and owner == USERS[token]:
            return True
        self._error(403, None, f'You don\'t have the rights to write under "{owner}".')
        return False

    def _validate(self, content: str) -> None:
        import yaml

        header = yaml.safe_load(content.split("---")[1])
        errors = []
        if header.get("license") not in LICENSES:
            errors.append({"message": f'"license" must not be {header.get("license")}'})
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", header.get("base_model", "a/b")):
            errors.append({"message": '"base_model" must be a model id'})
        self._json(400 if errors else 200, {"errors": errors, "warnings": []})

    def _error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({} if code is None else {"X-Error-Code": code})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
