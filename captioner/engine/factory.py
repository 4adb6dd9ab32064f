"""Building engines from plain descriptions, which can be passed to other processes."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioner.engine.config import EngineConfig, ServerConfig
from captioner.engine.protocol import Engine
from captioner.llava.chat_template import Prompt
from captioner.llava.preprocess import Preprocessing
from captioner.llava.sampling import Sampling
from captioner.llava.weights import Weights


def describe_vllm(
    weights: Weights,
    config: EngineConfig,
    *,
    prompt: Prompt,
    sampling: Sampling,
    preprocessing: Preprocessing,
) -> dict[str, Any]:
    """Describe a VllmEngine."""
    return {
        "engine": "vllm",
        "weights": {**asdict(weights), "path": str(weights.path)},
        "config": asdict(config),
        "prompt": asdict(prompt),
        "sampling": asdict(sampling),
        "preprocessing": preprocessing.to_dict(),
    }


def build_engine(
    description: dict[str, Any], on_event: Callable[[str], None] = lambda _: None
) -> Engine:
    """Start the described engine; `on_event` receives its messages for the user.

    Raises:
        UserError: it cannot be started.
    """
    settings = dict(description)
    name = settings.pop("engine")
    if name == "scripted":
        from captioner.engine.scripted import ScriptedEngine

        return ScriptedEngine(**settings)
    sampling, config = Sampling(**settings.pop("sampling")), settings.pop("config")
    prompt = Prompt(**settings.pop("prompt"))
    preprocessing = Preprocessing.from_dict(settings.pop("preprocessing"))
    asked: dict[str, Any] = {
        "prompt": prompt,
        "sampling": sampling,
        "preprocessing": preprocessing,
        **settings,
    }
    if name == "batch":
        from captioner.engine.batch import BatchEngine
        from captioner.engine.server.chat import RequestForm

        form = RequestForm(**asked.pop("form"))
        return BatchEngine(Path(config["batch_file"]), form=form, on_event=on_event, **asked)
    if name == "server":
        from captioner.engine.server import ServerEngine

        return ServerEngine(ServerConfig(**config), on_event=on_event, **asked)
    from captioner.engine.vllm import VllmEngine

    where = asked.pop("weights")
    weights = Weights(where["model"], Path(where["path"]), where["revision"])
    return VllmEngine(weights, EngineConfig(**config), **asked)
