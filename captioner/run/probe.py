"""Checking whether an engine still answers, with an image that already has a text."""

from collections.abc import Callable

from captioner.engine.protocol import Engine, Generation, Request


def ask_alone(
    engine: Engine, request: Request, *, stop: Callable[[], bool]
) -> tuple[Generation | None, list[Generation]]:
    """The result of a request (None if a stop was requested), and others that arrived meanwhile."""
    engine.submit(request)
    others: list[Generation] = []
    while not stop():
        came = engine.collect()
        others += [generation for generation in came if generation.key != request.key]
        for generation in came:
            if generation.key == request.key:
                return generation, others
    return None, others
