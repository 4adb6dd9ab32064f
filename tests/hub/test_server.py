"""The stand-in itself: what it says over HTTP, as the Hub does; clients are tried where used."""

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hub.faults import Fault
from tests.hub.routes import reading
from tests.hub.server import HubServer

FILES = {"README.md": b"# of mine\n", "data/a.parquet": b"0123456789", "data/x/b c.txt": b"b"}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.hub.create("me/set", FILES)
        yield server


def ask(
    server: HubServer, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(server.endpoint + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def head(server: HubServer, path: str) -> http.client.HTTPResponse:
    """Without following where it leads."""
    connection = http.client.HTTPConnection("127.0.0.1", int(server.endpoint.rsplit(":", 1)[1]))
    connection.request("HEAD", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_commits_are_found_by_branch_tag_and_name(server: HubServer) -> None:
    repository = server.hub.find("dataset", "me/set")
    assert repository is not None
    first = repository.refs["main"]
    repository.refs["v1"] = first
    repository.commit({"README.md": b"new"}, deleted=frozenset({"data/a.parquet"}))
    shas = {}
    for revision in ("", "/revision/main", "/revision/v1", f"/revision/{first}"):
        shas[revision] = json.loads(ask(server, f"/api/datasets/me/set{revision}")[2])["sha"]
    assert shas[""] == shas["/revision/main"] == repository.refs["main"] != first
    assert shas["/revision/v1"] == shas[f"/revision/{first}"] == first
    assert ask(server, "/datasets/me/set/resolve/v1/README.md")[2] == b"# of mine\n"
    assert ask(server, "/datasets/me/set/resolve/main/README.md")[2] == b"new"
    refs = json.loads(ask(server, "/api/datasets/me/set/refs")[2])
    assert [ref["name"] for ref in refs["tags"]] == ["v1"]


def test_what_is_not_there_is_told_as_the_hub_does(server: HubServer) -> None:
    for path, status, code in (
        ("/api/datasets/me/none", 401, "RepoNotFound"),
        ("/api/models/me/set", 401, "RepoNotFound"),
        ("/api/datasets/me/set/revision/v9", 404, "RevisionNotFound"),
        ("/datasets/me/set/resolve/main/none", 404, "EntryNotFound"),
        ("/api/datasets/me/set/tree/main/none", 404, "EntryNotFound"),
    ):
        found, headers, _ = ask(server, path)
        assert (found, headers["X-Error-Code"]) == (status, code), path


def test_trees_in_pages(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)
    found, path = [], "/api/datasets/me/set/tree/main?recursive=true"
    while path:
        _, headers, content = ask(server, path)
        found += json.loads(content)
        link = headers["Link"] or ""
        assert not link or link.endswith('; rel="next"')
        path = link.partition(">")[0].removeprefix(f"<{server.endpoint}")
    names = [(entry["type"], entry["path"]) for entry in found]
    assert names == [
        ("file", "README.md"),
        ("directory", "data"),
        ("file", "data/a.parquet"),
        ("directory", "data/x"),
        ("file", "data/x/b c.txt"),
    ]
    large = found[2]["lfs"]
    assert large["oid"] == hashlib.sha256(b"0123456789").hexdigest() and large["size"] == 10
    _, _, content = ask(server, "/api/datasets/me/set/tree/main/data")
    assert [entry["path"] for entry in json.loads(content)] == ["data/a.parquet", "data/x"]
    body = b"paths=data&paths=none&paths=data%2Fx%2Fb+c.txt&expand=false"
    _, _, content = ask(server, "/api/datasets/me/set/paths-info/main", method="POST", body=body)
    assert [entry["type"] for entry in json.loads(content)] == ["directory", "file"]


def test_files_whole_and_in_parts(server: HubServer) -> None:
    small = head(server, "/datasets/me/set/resolve/main/data/x/b%20c.txt")
    assert (small.status, small.headers["Content-Length"]) == (200, "1")
    assert small.headers["ETag"] == f'"{hashlib.sha1(b"blob 1" + bytes(1) + b"b").hexdigest()}"'
    large = head(server, "/datasets/me/set/resolve/main/data/a.parquet")
    assert (large.status, large.headers["X-Linked-Size"]) == (302, "10")
    sha = json.loads(ask(server, "/api/datasets/me/set")[2])["sha"]
    assert large.headers["X-Repo-Commit"] == sha == small.headers["X-Repo-Commit"]
    path = "/datasets/me/set/resolve/main/data/a.parquet"
    for asked, status, content in (
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
    ):
        found, _, got = ask(server, path, Range=asked)
        assert (found, got) == (status, content), asked


def test_faults_happen_as_often_as_they_are_told_to(server: HubServer) -> None:
    wait = {"Retry-After": "7"}
    server.faults.add(Fault(r"GET .*README", status=429, headers=wait, times=2))
    path = "/datasets/me/set/resolve/main/README.md"
    for _ in range(2):
        status, headers, _ = ask(server, path)
        assert (status, headers["Retry-After"]) == (429, "7")
    assert ask(server, path)[0] == 200
    for what in ("drop", "lose"):
        server.faults.add(Fault("README", what=what))  # type: ignore[arg-type]
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(server, path)
        assert ask(server, path)[0] == 200
    assert server.requests.count(f"GET {path}") == 7
