"""Whether an engine still answers, tried on an image that has its text from before."""

from collections.abc import Callable

from captioner.engine.protocol import Engine, Generation, Request


def ask_alone(
    engine: Engine, request: Request, *, stop: Callable[[], bool]
) -> tuple[Generation | None, list[Generation]]:
    """What comes of a request, None if a stop was heard; and what else came meanwhile."""
    engine.submit(request)
    others: list[Generation] = []
    while not stop():
        came = engine.collect()
        others += [generation for generation in came if generation.key != request.key]
        for generation in came:
            if generation.key == request.key:
                return generation, others
    return None, others
