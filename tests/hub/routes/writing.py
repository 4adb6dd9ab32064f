"""Who one is, new repositories, commits and tags."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.hub.messages import Answer, RefusedError, Request, Route, answer_json
from tests.hub.routes.access import API, find_own_repository, find_repository, require_user
from tests.hub.state import ATTRIBUTES, Hub, is_large

_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?(?<!\.git)")
# Of the Hub's list, as many as anyone here asks for.
_LICENSES = {
    *("apache-2.0", "mit", "bsd-3-clause", "openrail", "llama2", "unknown", "other", "cc0-1.0"),
    *(f"cc-by-{kind}" for kind in ("4.0", "sa-4.0", "nc-4.0", "nd-4.0", "nc-sa-4.0", "nc-nd-4.0")),
}


def tell_user(hub: Hub, request: Request) -> Answer:
    """GET /api/whoami-v2"""
    user = require_user(hub, request)
    role = "write" if user.writes else "read"
    organisations = [{"type": "org", "name": name} for name in user.organisations]
    token = {"displayName": "of the tests", "role": role}
    about = {"type": "user", "name": user.name, "orgs": organisations}
    return answer_json({**about, "auth": {"type": "access_token", "accessToken": token}})


def allow(hub: Hub, request: Request) -> Answer:
    """GET /api/datasets/NAME/auth-check[/write]"""
    find = find_own_repository if request.parts.get("write") else find_repository
    find(hub, request)
    return answer_json({})


def create_repository(hub: Hub, request: Request) -> Answer:
    """POST /api/repos/create"""
    user, asked = require_user(hub, request), request.read_json()
    kind = asked.get("type") or "model"
    name = f"{asked.get('organization') or user.name}/{asked['name']}"
    if not _NAME.fullmatch(asked["name"]):
        raise RefusedError(400, None, f"Invalid repo name: {name}")
    if not user.owns(name):
        owner = name.partition("/")[0]
        message = f'You don\'t have the rights to create a {kind} under the namespace "{owner}"'
        raise RefusedError(403, None, message)
    url = _locate(request, kind, name)
    if hub.find(kind, name) is not None:
        error = {"error": f"You already created this {kind} repo: {name}", "url": url}
        return answer_json(error, status=409)
    files = {ATTRIBUTES: b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"}
    if kind == "space":
        if asked.get("sdk") not in ("gradio", "docker", "static"):
            raise RefusedError(400, None, '"sdk" must be one of [gradio, docker, static]')
        files["README.md"] = f"---\nsdk: {asked['sdk']}\n---\n".encode()
    private = asked.get("visibility") == "private"
    hub.create(name, files, kind=kind, private=private)
    return answer_json({"url": url, "name": name})


def validate_card(hub: Hub, request: Request) -> Answer:
    """POST /api/validate-yaml: the head of a README.md."""
    asked = request.read_json()
    errors = _find_errors(asked["content"], kind=asked.get("repoType") or "model")
    told = {"errors": [{"message": message} for message in errors], "warnings": []}
    return answer_json(told, status=400 if errors else 200)


def tell_modes(hub: Hub, request: Request) -> Answer:
    """POST /api/datasets/NAME/preupload/REVISION: how each file is to be sent."""
    repository = find_own_repository(hub, request)
    commit = repository.find(request.parts["revision"])
    told = []
    for file in request.read_json()["files"]:
        mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
        about = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        if commit is not None and file["path"] in commit.files:
            about["oid"] = commit.files[file["path"]].etag
        told.append(about)
    return answer_json({"files": told})


def commit_files(hub: Hub, request: Request) -> Answer:
    """POST /api/datasets/NAME/commit/REVISION: one JSON document a line."""
    repository = find_own_repository(hub, request)
    branch = request.parts["revision"]
    header, *changes = [json.loads(line) for line in request.body.splitlines() if line]
    parent = header["value"].get("parentCommit")
    if parent is not None and parent != repository.refs.get(branch):
        raise RefusedError(412, None, "A commit has happened since. Please refresh and try again.")
    added: dict[str, bytes] = {}
    deleted: set[str] = set()
    for change in changes:
        value = change["value"]
        if change["key"] == "file":
            added[value["path"]] = base64.b64decode(value["content"])
        elif change["key"] == "lfsFile":
            added[value["path"]] = _find_uploaded(hub, value)
        elif change["key"] == "deletedFile":
            deleted.add(value["path"])
        else:
            raise RefusedError(400, None, f"the stand-in knows no {change['key']}")
    card = added.get("README.md")
    if card is not None and (errors := _find_errors(card.decode(), kind=repository.kind)):
        raise RefusedError(400, None, "; ".join(errors))
    title = header["value"]["summary"]
    made = repository.commit(added, deleted=frozenset(deleted), title=title, branch=branch)
    url = f"{_locate(request, repository.kind, repository.name)}/commit/{made.sha}"
    about = {"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""}
    return answer_json(about)


def create_tag(hub: Hub, request: Request) -> Answer:
    """POST /api/datasets/NAME/tag/REVISION"""
    repository = find_own_repository(hub, request)
    tag, commit = request.read_json()["tag"], repository.find(request.parts["revision"])
    if commit is None:
        raise RefusedError(404, "RevisionNotFound", "Invalid rev id")
    if tag in repository.refs:
        raise RefusedError(409, None, f"Tag reference exists already: {tag}")
    repository.refs[tag] = commit.sha
    return answer_json({})


def _find_uploaded(hub: Hub, value: Mapping[str, Any]) -> bytes:
    blob = hub.find_large(value["oid"])
    if blob is None:
        message = "your push was rejected: an LFS pointer points to a file that does not exist"
        raise RefusedError(400, None, message)
    return blob.content


def _find_errors(content: str, *, kind: str) -> list[str]:
    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"]
    if not isinstance(head, dict):
        return ["the metadata must be an object"]
    errors = []
    if "license" in head and head["license"] not in _LICENSES:
        errors.append(f'"license" must be one of {sorted(_LICENSES)}')
    if kind == "space" and head.get("sdk") not in ("gradio", "docker", "static"):
        errors.append('"sdk" must be one of [gradio, docker, static]')
    return errors


def _locate(request: Request, kind: str, name: str) -> str:
    return f"{request.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{name}"


TABLE: list[tuple[str, Route]] = [
    (r"GET /api/whoami-v2", tell_user),
    (rf"GET {API}/auth-check(?P<write>/write)?", allow),
    (r"POST /api/repos/create", create_repository),
    (r"POST /api/validate-yaml", validate_card),
    (rf"POST {API}/preupload/(?P<revision>[^/]+)", tell_modes),
    (rf"POST {API}/commit/(?P<revision>[^/]+)", commit_files),
    (rf"POST {API}/tag/(?P<revision>[^/]+)", create_tag),
]
