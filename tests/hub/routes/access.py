"""Who asks, of which repository, and whether that is allowed; the Hub's words where it is not."""

from tests.hub.messages import RefusedError, Request
from tests.hub.state import Hub, Repository, User

API = r"/api/(?P<kind>datasets|models|spaces)/(?P<name>[^/]+/[^/]+)"
_KINDS = {"datasets": "dataset", "models": "model", "spaces": "space"}


def find_user(hub: Hub, request: Request) -> User | None:
    """Who asks; None without a token. A token that nobody has is refused, whatever was asked."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    user = hub.users.get(header.removeprefix("Bearer "))
    if user is None:
        raise RefusedError(401, None, "Invalid credentials in Authorization header")
    return user


def require_user(hub: Hub, request: Request) -> User:
    """Who asks; 401 without a token."""
    user = find_user(hub, request)
    if user is None:
        raise RefusedError(401, None, "Invalid username or password.")
    return user


def find_repository(hub: Hub, request: Request) -> Repository:
    """The repository that a request names, if whoever asks may see it.

    Where there is none, the Hub says 401 to strangers and 404 to those it knows.
    """
    kind, name = _KINDS[request.parts.get("kind") or "models"], request.parts["name"]
    user = find_user(hub, request)
    repository = hub.find(kind, name)
    hidden = repository is not None and repository.private and not (user and user.owns(name))
    if repository is None or hidden:
        status = 401 if user is None else 404
        raise RefusedError(status, "RepoNotFound", "Repository not found")
    return repository


def find_own_repository(hub: Hub, request: Request) -> Repository:
    """`find_repository`, to change it: 403 where it is someone else's."""
    user = require_user(hub, request)
    repository = find_repository(hub, request)
    if not user.owns(repository.name):
        message = f"You don't have the required permissions to write in {repository.name}"
        raise RefusedError(403, None, message)
    return repository
