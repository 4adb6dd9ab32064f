"""Engines from plain descriptions, so that one can be built in another process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioner.engine.protocol import Engine
from captioner.llava.sampling import Sampling
from captioner.llava.weights import Weights


def describe_vllm(weights: Weights, *, sampling: Sampling, **settings: Any) -> dict[str, Any]:
    """The description of a VllmEngine; `settings` are its other arguments."""
    where = {"model": weights.model, "path": str(weights.path), "revision": weights.revision}
    drawn = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
    }
    return {"engine": "vllm", "weights": where, "sampling": drawn, **settings}


def build_engine(
    description: dict[str, Any], on_event: Callable[[str], None] = lambda _: None
) -> Engine:
    """Start the engine that is described; `on_event` gets what it has to say to a reader.

    Raises:
        UserError: it cannot be started.
    """
    settings = dict(description)
    name = settings.pop("engine")
    if name == "scripted":
        from captioner.engine.scripted import ScriptedEngine

        return ScriptedEngine(**settings)
    sampling = Sampling(**settings.pop("sampling"))
    if name == "server":
        from captioner.engine.server import ServerEngine

        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        return ServerEngine(max_tokens=sampling.max_tokens, on_event=on_event, **settings)
    from captioner.engine.vllm import VllmEngine

    where = settings.pop("weights")
    weights = Weights(where["model"], Path(where["path"]), where["revision"])
    return VllmEngine(weights, sampling=sampling, **settings)
