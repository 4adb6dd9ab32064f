"""Engines from plain descriptions, so that one can be built in another process."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioner.engine.config import EngineConfig, ServerConfig
from captioner.engine.protocol import Engine
from captioner.llava.sampling import Sampling
from captioner.llava.weights import Weights


def describe_vllm(
    weights: Weights, config: EngineConfig, *, prompt: str, sampling: Sampling
) -> dict[str, Any]:
    """The description of a VllmEngine."""
    return {
        "engine": "vllm",
        "weights": {**asdict(weights), "path": str(weights.path)},
        "config": asdict(config),
        "prompt": prompt,
        "sampling": asdict(sampling),
    }


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
    sampling, config = Sampling(**settings.pop("sampling")), settings.pop("config")
    if name == "server":
        from captioner.engine.server import ServerEngine

        return ServerEngine(
            ServerConfig(**config), sampling=sampling, on_event=on_event, **settings
        )
    from captioner.engine.vllm import VllmEngine

    where = settings.pop("weights")
    weights = Weights(where["model"], Path(where["path"]), where["revision"])
    return VllmEngine(weights, EngineConfig(**config), sampling=sampling, **settings)
