"""Looking at repositories and downloading from them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from tests.hub.messages import Answer, RefusedError, Request, Route, answer_json
from tests.hub.routes.access import API, find_repository
from tests.hub.state import MAIN, Blob, Commit, Hub, Repository

# Of a listing; the Hub's is 1,000.
PAGE = 1000


def find_commit(hub: Hub, request: Request) -> tuple[Repository, Commit]:
    """The repository, and the commit that a request names; `main` by default."""
    repository = find_repository(hub, request)
    revision = request.parts.get("revision") or MAIN
    commit = repository.find(revision)
    if commit is None:
        raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return repository, commit


def tell_repository(hub: Hub, request: Request) -> Answer:
    """GET /api/datasets/NAME[/revision/REVISION]"""
    repository, commit = find_commit(hub, request)
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    about = {"id": repository.name, "sha": commit.sha, "siblings": siblings}
    about |= {"private": repository.private, "gated": False, "disabled": False, "tags": []}
    return answer_json(about)


def tell_refs(hub: Hub, request: Request) -> Answer:
    """GET /api/datasets/NAME/refs"""
    repository = find_repository(hub, request)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
        for name, sha in repository.refs.items()
        if name == MAIN
    ]
    tags = [
        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha}
        for name, sha in repository.refs.items()
        if name != MAIN
    ]
    return answer_json({"branches": branches, "tags": tags, "converts": []})


def list_tree(hub: Hub, request: Request) -> Answer:
    """GET /api/datasets/NAME/tree/REVISION[/FOLDER], in pages that name the next one."""
    _, commit = find_commit(hub, request)
    folder = request.parts.get("path") or ""
    entries = list(_walk(commit.files, folder, recursive=request.ask("recursive")))
    if not entries and folder:
        raise RefusedError(404, "EntryNotFound", f"{folder} does not exist on this revision")
    start = int(request.query.get("cursor", ["0"])[-1])
    headers = {"X-Repo-Commit": commit.sha}
    if start + PAGE < len(entries):
        path = f"tree/{quote(request.parts['revision'], safe='')}/{quote(folder)}".rstrip("/")
        flags = "".join(
            f"{n}={request.query[n][-1]}&" for n in ("recursive",) if n in request.query
        )
        url = f"{request.endpoint}/api/{request.parts['kind']}/{request.parts['name']}/{path}"
        headers["Link"] = f'<{url}?{flags}cursor={start + PAGE}>; rel="next"'
    return answer_json(entries[start : start + PAGE], headers=headers)


def tell_paths(hub: Hub, request: Request) -> Answer:
    """POST /api/datasets/NAME/paths-info/REVISION; what is not there is left out."""
    _, commit = find_commit(hub, request)
    found = []
    for path in request.read_form().get("paths", []):
        if path in commit.files:
            found.append(_describe(path, commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            found.append(_describe_folder(path))
    return answer_json(found)


def resolve_file(hub: Hub, request: Request) -> Answer:
    """HEAD and GET /datasets/NAME/resolve/REVISION/PATH; large files lie elsewhere."""
    _, commit = find_commit(hub, request)
    path, about = request.parts["path"], {"X-Repo-Commit": commit.sha}
    blob = commit.files.get(path)
    if blob is None:
        refusal = RefusedError(404, "EntryNotFound", f"{path} does not exist on this revision")
        return Answer(refusal.answer.body, 404, {**refusal.answer.headers, **about})
    if blob.large:
        linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        # Another host than the Hub's, or clients would ask it for what only the Hub knows.
        elsewhere = request.endpoint.replace("127.0.0.1", "localhost")
        location = f"{elsewhere}/large/{blob.sha256}"
        return Answer(b"", 302, {**about, **linked, "Location": location})
    return _serve(blob, request, about)


def serve_large(hub: Hub, request: Request) -> Answer:
    """GET /large/SHA256: where the Hub would send one to its store of large files."""
    blob = hub.find_large(request.parts["sha256"])
    if blob is None:
        raise RefusedError(404, "EntryNotFound", "no such file")
    return _serve(blob, request, {})


def _serve(blob: Blob, request: Request, about: Mapping[str, str]) -> Answer:
    headers = {**about, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if asked is None:
        return Answer(blob.content, headers=headers)
    size = len(blob.content)
    first, last = asked.groups()
    # `bytes=-5` is the last five.
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Answer(blob.content[start : end + 1], 206, headers)


def _walk(files: Mapping[str, Blob], folder: str, *, recursive: bool) -> Iterator[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    folders: set[str] = set()
    for path in sorted(path for path in files if path.startswith(prefix)):
        inner = path.removeprefix(prefix).split("/")[:-1]
        for depth in range(1, len(inner) + 1):
            name = prefix + "/".join(inner[:depth])
            if name not in folders and (recursive or depth == 1):
                folders.add(name)
                yield _describe_folder(name)
        if recursive or not inner:
            yield _describe(path, files[path])


def _describe(path: str, blob: Blob) -> dict[str, Any]:
    about = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
    if blob.large:
        size = len(blob.pointer)
        about["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": size}
    return about


def _describe_folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


TABLE: list[tuple[str, Route]] = [
    (rf"GET {API}/refs", tell_refs),
    (rf"GET {API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", list_tree),
    (rf"POST {API}/paths-info/(?P<revision>[^/]+)", tell_paths),
    (rf"GET {API}(/revision/(?P<revision>[^/]+))?", tell_repository),
    (r"(GET|HEAD) /large/(?P<sha256>\w{64})", serve_large),
    (
        r"(GET|HEAD) /((?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
        r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        resolve_file,
    ),
]
