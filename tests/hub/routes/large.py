"""Large files: announced in a batch, sent to the store in one piece or in parts, verified."""

import hashlib
from typing import Any

from tests.hub.messages import Answer, RefusedError, Request, Route, answer_json
from tests.hub.routes.access import find_own_repository, require_user
from tests.hub.state import Hub

# As a real store has it in its addresses; it is as good as a token and must not be shown.
SIGNATURE = "X-Amz-Signature=0f1e2d3c4b5a"


def announce(hub: Hub, request: Request) -> Answer:
    """POST /datasets/NAME.git/info/lfs/objects/batch: where each goes; nowhere if it is there."""
    find_own_repository(hub, request)
    objects = []
    for asked in request.read_json()["objects"]:
        about: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if hub.find_large(asked["oid"]) is None:
            about["actions"] = _tell_actions(hub, request, asked["oid"], asked["size"])
        objects.append(about)
    return answer_json({"transfer": "basic", "objects": objects})


def receive(hub: Hub, request: Request) -> Answer:
    """PUT /large/SHA256: the store takes a file, if it is what was announced."""
    sha256 = request.parts["sha256"]
    hub.received[sha256] += 1
    _keep(hub, sha256, request.body)
    return Answer(headers={"ETag": '"whole"'})


def receive_part(hub: Hub, request: Request) -> Answer:
    """PUT /large/SHA256/part/NUMBER"""
    number = int(request.parts["number"])
    hub.parts[request.parts["sha256"], number] = request.body
    return Answer(headers={"ETag": f'"part-{number}"'})


def complete(hub: Hub, request: Request) -> Answer:
    """POST /large/SHA256/complete: the parts, in the order told."""
    sha256, told = request.parts["sha256"], request.read_json()["parts"]
    if any(part["etag"].strip('"') != f"part-{part['partNumber']}" for part in told):
        raise RefusedError(400, None, "a part has another ETag")
    hub.received[sha256] += 1
    _keep(hub, sha256, b"".join(hub.parts[sha256, part["partNumber"]] for part in told))
    return answer_json({})


def verify(hub: Hub, request: Request) -> Answer:
    """POST /large/SHA256/verify: whether it has arrived."""
    require_user(hub, request)
    asked, content = request.read_json(), hub.large.get(request.parts["sha256"])
    if content is None or len(content) != asked["size"]:
        raise RefusedError(404, "EntryNotFound", "the upload has not arrived")
    return answer_json({})


def _tell_actions(hub: Hub, request: Request, sha256: str, size: int) -> dict[str, Any]:
    # Another host than the Hub's: it must not be sent the token.
    store = request.endpoint.replace("127.0.0.1", "localhost") + f"/large/{sha256}"
    verify = {"href": f"{request.endpoint}/large/{sha256}/verify"}
    if size <= hub.part_bytes:
        return {"upload": {"href": f"{store}?{SIGNATURE}", "header": {}}, "verify": verify}
    parts = -(-size // hub.part_bytes)
    header = {f"{n:05d}": f"{store}/part/{n}?{SIGNATURE}" for n in range(1, parts + 1)}
    header["chunk_size"] = str(hub.part_bytes)
    href = f"{request.endpoint}/large/{sha256}/complete"
    return {"upload": {"href": href, "header": header}, "verify": verify}


def _keep(hub: Hub, sha256: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RefusedError(400, None, "the content is not what was announced")
    hub.large[sha256] = content


_SHA = r"(?P<sha256>\w{64})"
TABLE: list[tuple[str, Route]] = [
    (
        r"POST /((?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
        announce,
    ),
    (rf"PUT /large/{_SHA}", receive),
    (rf"PUT /large/{_SHA}/part/(?P<number>\d+)", receive_part),
    (rf"POST /large/{_SHA}/complete", complete),
    (rf"POST /large/{_SHA}/verify", verify),
]
