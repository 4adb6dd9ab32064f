"""A server that speaks as much of the Hub's protocol as publishing and fetching a model need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories of models by name: path -> content."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.url = ""

    def sha(self, repo: str) -> str:
        """The commit that `main` is at."""
        content = hashlib.sha1()
        for path, data in sorted(self.repos[repo].items()):
            content.update(path.encode() + b"\0" + data)
        return content.hexdigest()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A Hub on a port of its own; `HF_ENDPOINT` names it to the client."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:])
        else:
            self._send_file("/".join(parts[:2]), "/".join(parts[4:]))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path).path.strip("/").split("/")
        repo = "/".join(parts[2:4])
        if parts[1:3] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.hub.repos.setdefault(name, {})
            self._answer({"url": f"{self.hub.url}/{name}", "name": name})
        elif parts[4:5] == ["preupload"]:
            files = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer({"files": [{"path": path, **mode} for path in files]})
        elif parts[4:5] == ["commit"]:
            self._commit(repo, body)
        else:
            self._answer({"errors": [], "warnings": []})

    def _describe(self, repo: str, rest: list[str]) -> None:
        if repo not in self.hub.repos:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        if rest[:1] == ["revision"] and rest[1] not in ("main", self.hub.sha(repo)):
            self._answer({"error": "no such"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        files = self.hub.repos[repo]
        if rest[:1] == ["tree"]:
            self._answer(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _tag(data)}
                    for path, data in files.items()
                ]
            )
            return
        siblings = [{"rfilename": path} for path in files]
        self._answer({"id": repo, "sha": self.hub.sha(repo), "siblings": siblings})

    def _send_file(self, repo: str, path: str) -> None:
        data = self.hub.repos.get(repo, {}).get(path)
        if data is None:
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{_tag(data)}"', "X-Repo-Commit": self.hub.sha(repo)}
        self._answer(data, 200, headers)

    def _commit(self, repo: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
        sha = self.hub.sha(repo)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self._answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _answer(
        self, content: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _tag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
