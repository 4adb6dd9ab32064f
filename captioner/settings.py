"""Everything a captioning run is told, checked, and the engine it asks for."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from captioner.engines.protocol import Engine
from captioner.preprocess import Preprocessing
from captioner.prompts import find_model
from captioner.sampling import Sampling
from captioner.vision import choose_preprocessing, read_chat_template
from captioner.weights import Weights, obtain_weights
from data.errors import UserError
from data.images import hash_bytes

EngineName = Literal["vllm", "scripted"]
ENGINES: tuple[str, ...] = get_args(EngineName)
# The scripted engine sees no pixels; small squares keep it quick.
_SCRIPTED_SIZE = 28


@dataclass(frozen=True)
class EngineChoice:
    """A model made ready: what its rows depend on, and how to start its engine.

    `folder` is where the weights lie, None if there are none.
    """

    settings: dict[str, Any]
    preprocessing: Preprocessing
    start: Callable[[], Engine]
    chat_template: str | None = None
    folder: Path | None = None


def choose_engine(
    *,
    engine: str,
    model: str,
    revision: str | None,
    prompt: str,
    sampling: Sampling,
    aspect: str | None,
    max_image_pixels: int,
    dtype: str,
    kv_cache_dtype: str,
    gpu_memory: float,
    max_model_len: int | None,
) -> EngineChoice:
    """Check everything that can be wrong before an engine is started.

    Raises:
        UserError: unknown model or engine, weights that cannot be had, settings that do not fit.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine is one of {', '.join(ENGINES)}, not {engine!r}")
    if not prompt.strip():
        raise UserError("--prompt is empty")
    asked = {"engine": engine, "prompt": prompt, "sampling": asdict(sampling)}
    if engine == "scripted":
        return _choose_scripted(model, asked, aspect, max_image_pixels)
    weights = obtain_weights(find_model(model), revision=revision)
    preprocessing = choose_preprocessing(weights, aspect=aspect, max_image_pixels=max_image_pixels)
    return _choose_vllm(
        weights,
        preprocessing,
        asked,
        sampling=sampling,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        gpu_memory=gpu_memory,
        max_model_len=max_model_len,
    )


def _choose_scripted(
    model: str, asked: dict[str, Any], aspect: str | None, max_image_pixels: int
) -> EngineChoice:
    from captioner.engines.scripted import ScriptedEngine

    preprocessing = Preprocessing(
        aspect=aspect or "pad",  # type: ignore[arg-type]
        size=_SCRIPTED_SIZE,
        max_image_pixels=max_image_pixels,
    )
    settings = {
        "model": model,
        "revision": "scripted",
        **asked,
        "preprocessing": preprocessing.to_dict(),
    }
    return EngineChoice(settings, preprocessing, ScriptedEngine)


def _choose_vllm(
    weights: Weights,
    preprocessing: Preprocessing,
    asked: dict[str, Any],
    *,
    sampling: Sampling,
    dtype: str,
    kv_cache_dtype: str,
    gpu_memory: float,
    max_model_len: int | None,
) -> EngineChoice:
    from captioner.engines.vllm import VllmEngine
    from captioner.engines.vllm_process import choose_dtype

    template = read_chat_template(weights)
    if template is None:
        raise UserError(
            f"{weights.model} has no chat template, so that the prompt cannot be put as it was "
            "trained: give a model that has one (those of llava-hf have)"
        )
    resolved = choose_dtype(dtype)
    settings = {
        "model": weights.model,
        "revision": weights.revision,
        **asked,
        "chat_template_sha256": hash_bytes(template.encode()),
        "preprocessing": preprocessing.to_dict(),
        "dtype": resolved,
        "kv_cache_dtype": kv_cache_dtype,
        "max_model_len": max_model_len,
    }

    def start() -> Engine:
        return VllmEngine(
            weights,
            prompt=str(asked["prompt"]),
            sampling=sampling,
            dtype=resolved,
            kv_cache_dtype=kv_cache_dtype,
            gpu_memory=gpu_memory,
            max_model_len=max_model_len,
        )

    return EngineChoice(settings, preprocessing, start, template, weights.path)
