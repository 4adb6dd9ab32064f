"""The stand-in itself: what it says over HTTP, as the Hub does; clients are tried where used."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub.faults import Fault
from tests.hub.routes import reading
from tests.hub.server import HubServer
from tests.hub.state import User
from tests.waiting import HANG_SECONDS

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
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
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


def test_who_may_write_where(server: HubServer) -> None:
    server.hub.users |= {"hf_me": User("me", ("club",)), "hf_reader": User("reader", writes=False)}

    def create(owner: str | None, name: str, token: str | None = "hf_me") -> tuple[int, str]:
        body = json.dumps({"organization": owner, "name": name, "type": "dataset"}).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        status, _, content = ask(server, "/api/repos/create", body=body, method="POST", **headers)
        return status, json.loads(content).get("error", "")

    assert create(None, "one")[0] == create("club", "two")[0] == 200
    assert set(server.hub.repositories) >= {("dataset", "me/one"), ("dataset", "club/two")}
    assert create(None, "one")[0] == 409
    assert create("them", "one") == (
        403,
        'You don\'t have the rights to create a dataset under the namespace "them"',
    )
    assert create("reader", "one", "hf_reader")[0] == 403
    assert create(None, "a--b")[0] == 400
    assert create(None, "one", None)[0] == 401
    assert create(None, "one", "hf_nobody") == (401, "Invalid credentials in Authorization header")
    assert ask(server, "/api/whoami-v2")[0] == 401
    commit = b'{"key": "header", "value": {"summary": "more"}}'
    path = "/api/datasets/me/set/commit/main"
    for token, status in (("hf_me", 200), ("hf_reader", 403), ("hf_nobody", 401)):
        found, _, _ = ask(server, path, body=commit, method="POST", Authorization=f"Bearer {token}")
        assert found == status, token


def test_what_is_private_is_seen_by_its_owner(server: HubServer) -> None:
    server.hub.users |= {"hf_me": User("me"), "hf_them": User("them")}
    server.hub.create("me/secret", FILES, private=True)
    path = "/datasets/me/secret/resolve/main/README.md"
    for token, status in ((None, 401), ("hf_them", 404), ("hf_me", 200)):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        assert ask(server, path, **headers)[0] == status


_VISITOR = """
import sys
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
api, repo = HfApi(), "me/new"
for kind, more in (("dataset", {}), ("model", {}), ("space", {"space_sdk": "gradio"})):
    api.create_repo(repo, repo_type=kind, private=True, **more)
    api.create_repo(repo, repo_type=kind, exist_ok=True, **more)
    card = b"---\\nlicense: mit\\nsdk: gradio\\n---\\n"
    files = {"README.md": card, "a.bin": bytes(25), "b.bin": b"b", "c.txt": b"c", "d.bin": b""}
    api.create_commit(repo, [CommitOperationAdd(path, data) for path, data in files.items()],
                      commit_message="files", repo_type=kind)
    api.create_tag(repo, tag="v1", repo_type=kind)
    api.create_commit(repo, [CommitOperationAdd("b.bin", bytes(25)), CommitOperationDelete("c.txt")],
                      commit_message="more", repo_type=kind)
    tree = {f.path: f for f in api.list_repo_tree(repo, repo_type=kind, revision="v1")}
    assert tree["a.bin"].lfs.size == 25 and tree["c.txt"].lfs is None, tree
    path = hf_hub_download(repo, "a.bin", repo_type=kind)
    assert open(path, "rb").read() == bytes(25)
    assert api.repo_info(repo, repo_type=kind).private
"""  # noqa: E501


def test_the_client_creates_commits_and_tags(server: HubServer, tmp_path: Path) -> None:
    server.hub.users["hf_me"] = User("me")
    # Two files come in three parts, which are the same file in each repository.
    server.hub.part_bytes = 10
    server.faults.add(Fault("PUT .*part", status=503, headers={"Retry-After": "0"}))
    environment = server.environment(tmp_path, token="hf_me")
    done = subprocess.run(
        [sys.executable, "-c", _VISITOR],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in ("dataset", "model", "space"):
        files = server.hub.read(kind, "me/new")
        assert {path: len(data) for path, data in files.items() if path != "README.md"} == {
            "a.bin": 25, "b.bin": 25, "d.bin": 0
        }  # fmt: skip
    assert set(server.hub.received.values()) == {1} and len(server.hub.received) == 2
