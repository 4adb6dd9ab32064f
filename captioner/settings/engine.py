"""Everything a captioning run is told, checked, and the engine it asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from captioner.engine.factory import build_engine, describe_vllm
from captioner.engine.pool import share_devices, start_engines
from captioner.engine.protocol import Engine
from captioner.engine.watchdog import Watchdog
from captioner.llava.chat_template import read_chat_template
from captioner.llava.image_processor import choose_preprocessing, count_image_tokens
from captioner.llava.names import ModelName, parse_model_name
from captioner.llava.preprocess import Preprocessing
from captioner.llava.sampling import Sampling
from captioner.llava.weights import Weights, ask_revision, find_weights, obtain_weights
from captioner.settings.text_policy import TextPolicy
from data.errors import UsageError, UserError
from data.files.hashes import hash_bytes

EngineName = Literal["vllm", "server", "scripted"]
ENGINES: tuple[str, ...] = get_args(EngineName)
# The scripted engine sees no pixels; small squares keep it quick.
_SCRIPTED_SIZE = 28
_GPU_MEMORY, _SERVER_PATIENCE = 0.92, 300.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class EngineChoice:
    """A model made ready: what its rows depend on, and how to start its engine.

    `start` takes what gets the engine's events as lines for a reader. `folder` is where the weights
    lie, None if there are none here; `description` is what `build_engine` takes.
    """

    settings: dict[str, Any]
    preprocessing: Preprocessing
    start: Callable[[Say], Engine]
    chat_template: str | None = None
    folder: Path | None = None
    description: dict[str, Any] = field(default_factory=dict)
    unfetched: bool = False


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
    gpu_memory: float | None,
    max_model_len: int | None,
    engines: int | None,
    tensor_parallel_size: int,
    servers: Sequence[str],
    server_window: int | None,
    server_patience: float | None,
    image_size: int | None,
    policy: TextPolicy,
    watch: Callable[[], Watchdog],
    recorded: Mapping[str, Any],
    fetch: bool,
) -> EngineChoice:
    """Check everything that can be wrong before an engine is started.

    Without `fetch`, weights that are not here are left where they are: what their files would say
    is taken from `recorded`, the settings of the run that was begun, and no engine can start.

    Raises:
        UserError: unknown model or engine, weights that cannot be had, settings that do not fit.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine is one of {', '.join(ENGINES)}, not {engine!r}")
    if not prompt.strip():
        raise UserError("--prompt is empty")
    if aspect == "keep" and image_size is not None:
        raise UsageError("--image-size is the side of a square, and --aspect keep makes none")
    asked: dict[str, Any] = {"engine": engine, "prompt": prompt, "sampling": asdict(sampling)}
    if policy != TextPolicy():
        asked["texts"] = policy.to_dict()
    if engine == "scripted":
        return _choose_scripted(model, asked, aspect, max_image_pixels)
    if engine == "server":
        return _choose_server(
            servers,
            model,
            asked,
            sampling=sampling,
            aspect=aspect,
            image_size=image_size,
            max_image_pixels=max_image_pixels,
            window=server_window,
            patience=_SERVER_PATIENCE if server_patience is None else server_patience,
            ask=fetch,
        )
    from captioner.engine.vllm_process import choose_dtype

    name = parse_model_name(model)
    asked |= {
        "dtype": choose_dtype(dtype),
        "kv_cache_dtype": kv_cache_dtype,
        "max_model_len": max_model_len,
    }
    obtain = obtain_weights if fetch else find_weights
    weights = obtain(name, revision=revision)
    if weights is None:
        return _choose_unfetched(name, revision, asked, aspect, max_image_pixels, recorded)
    preprocessing = choose_preprocessing(weights, aspect=aspect, max_image_pixels=max_image_pixels)
    return _choose_vllm(
        weights,
        preprocessing,
        asked,
        sampling=sampling,
        gpu_memory=gpu_memory,
        engines=engines,
        tensor_parallel_size=tensor_parallel_size,
        watch=watch,
    )


def _choose_scripted(
    model: str, asked: dict[str, Any], aspect: str | None, max_image_pixels: int
) -> EngineChoice:
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
    return EngineChoice(settings, preprocessing, lambda _: build_engine({"engine": "scripted"}))


def _choose_server(
    servers: Sequence[str],
    model: str,
    asked: dict[str, Any],
    *,
    sampling: Sampling,
    aspect: str | None,
    image_size: int | None,
    max_image_pixels: int,
    window: int | None,
    patience: float,
    ask: bool,
) -> EngineChoice:
    """Photos are prepared for the model if its files are here, else as its name says.

    The servers are asked now whether they serve it, so that nothing is written if they do not; not
    so for a run that is finished, or that is only looked at.
    """
    from captioner.engine.server import describe_servers

    if ask:
        describe_servers(servers, model)
    weights = _find_known(model)
    name = _name_served(model)
    image_tokens = None
    if weights is not None:
        preprocessing = choose_preprocessing(
            weights, aspect=aspect, max_image_pixels=max_image_pixels
        )
        image_tokens = count_image_tokens(weights)
    else:
        # LLaVA-1.6 cuts photos up by itself; every other one gets what LLaVA-1.5 was trained with.
        chosen = aspect or ("keep" if "v1.6" in name else "pad")
        preprocessing = Preprocessing(
            aspect=chosen,  # type: ignore[arg-type]
            size=None if chosen == "keep" else Preprocessing.size,
            max_image_pixels=max_image_pixels,
        )
    if image_size is not None:
        preprocessing = replace(preprocessing, size=image_size)
    settings = {
        "model": name,
        # A server does not say which weights it has.
        "revision": None,
        **asked,
        "preprocessing": preprocessing.to_dict(),
    }
    description = {
        "engine": "server",
        "urls": list(servers),
        "model": model,
        "prompt": asked["prompt"],
        "image_tokens": image_tokens,
        "window": window,
        "patience": patience,
        "sampling": asdict(sampling),
    }
    return EngineChoice(settings, preprocessing, lambda say: build_engine(description, say))


def _name_served(model: str) -> str:
    """The model's whole name, where it is one that we know by a shorter one."""
    try:
        return parse_model_name(model).name
    except UserError:
        return model


def _find_known(model: str) -> Weights | None:
    """The model's files, if they are on this machine; a server needs none of them here."""
    try:
        return find_weights(parse_model_name(model))
    except UserError:
        return None


def _choose_unfetched(
    model: ModelName,
    revision: str | None,
    asked: dict[str, Any],
    aspect: str | None,
    max_image_pixels: int,
    recorded: Mapping[str, Any],
) -> EngineChoice:
    """What can be known of a model of the Hub without its files."""
    same = recorded.get("model") == model.name and revision in (None, recorded.get("revision"))
    changed = {"max_image_pixels": max_image_pixels} | ({"aspect": aspect} if aspect else {})
    settings = {
        "model": model.name,
        "revision": recorded["revision"] if same else ask_revision(model, revision=revision),
        **asked,
        "chat_template_sha256": recorded.get("chat_template_sha256"),
        "preprocessing": {**recorded.get("preprocessing", {}), **changed},
    }

    def start(_: Say) -> Engine:
        raise UserError(
            f"the weights of {model.name} are needed and not here: "
            "run the same command again to fetch them"
        )

    preprocessing = Preprocessing(max_image_pixels=max_image_pixels)
    return EngineChoice(settings, preprocessing, start, unfetched=True)


def _choose_vllm(
    weights: Weights,
    preprocessing: Preprocessing,
    asked: dict[str, Any],
    *,
    sampling: Sampling,
    gpu_memory: float | None,
    engines: int | None,
    tensor_parallel_size: int,
    watch: Callable[[], Watchdog],
) -> EngineChoice:
    template = read_chat_template(weights)
    if template is None:
        raise UserError(
            f"{weights.model} has no chat template, so that the prompt cannot be put as it was "
            "trained: give a model that has one (those of llava-hf have)"
        )
    settings = {
        "model": weights.model,
        "revision": weights.revision,
        **asked,
        "chat_template_sha256": hash_bytes(template.encode()),
        "preprocessing": preprocessing.to_dict(),
    }

    description = describe_vllm(
        weights,
        sampling=sampling,
        prompt=asked["prompt"],
        dtype=asked["dtype"],
        kv_cache_dtype=asked["kv_cache_dtype"],
        gpu_memory=_GPU_MEMORY if gpu_memory is None else gpu_memory,
        max_model_len=asked["max_model_len"],
        tensor_parallel_size=tensor_parallel_size,
    )

    def start(say: Say) -> Engine:
        # Asked where the engines start: a cluster's driver may have no GPU.
        environments = share_devices(
            weights,
            engines=engines,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory=gpu_memory,
        )
        return start_engines(description, environments, watch=watch, on_event=say)

    return EngineChoice(settings, preprocessing, start, template, weights.path, description)
