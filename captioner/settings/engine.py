"""Checking the engine settings of a captioning run, and choosing its engine."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from captioner.engine.config import EngineConfig
from captioner.engine.factory import build_engine, describe_vllm
from captioner.engine.pool import share_devices, start_engines
from captioner.engine.protocol import Engine
from captioner.engine.watchdog import SILENCE_SECONDS, Watchdog
from captioner.llava.chat_template import needs_start, read_chat_template
from captioner.llava.image_processor import choose_preprocessing, choose_unread
from captioner.llava.names import ModelName, parse_model_name
from captioner.llava.preprocess import Preprocessing
from captioner.llava.weights import Weights, ask_revision, find_weights, obtain_weights
from captioner.settings.config import CaptionConfig, TextConfig
from captioner.settings.text_policy import TextPolicy
from data.errors import UsageError, UserError
from data.files.hashes import hash_bytes

# The scripted engine sees no pixels; small squares keep it quick.
_SCRIPTED_SIZE = 28
Say = Callable[[str], None]


@dataclass(frozen=True)
class EngineChoice:
    """A model that is ready: what its rows depend on, and how to start its engine.

    `start` takes a callback for the engine's messages. `folder` has the weights, None if they are
    not on this machine; `description` is the argument of `build_engine`. A `checked` engine has
    verified that it works, so that failures are the images' own.
    """

    settings: dict[str, Any]
    preprocessing: Preprocessing
    start: Callable[[Say], Engine]
    chat_template: str | None = None
    folder: Path | None = None
    description: dict[str, Any] = field(default_factory=dict)
    unfetched: bool = False
    checked: bool = False


def choose_engine(
    config: CaptionConfig, *, recorded: Mapping[str, Any], fetch: bool
) -> EngineChoice:
    """Check everything that can be checked before an engine is started.

    Without `fetch`, missing weights are not downloaded: what their files would say is taken from
    `recorded`, the settings of the existing run, and no engine can start.

    Raises:
        UserError: unknown model or engine, unavailable weights, or incompatible settings.
    """
    name = config.engine_name
    if config.pixels.aspect == "keep" and config.server.image_size is not None:
        raise UsageError(
            "--image-size is the side of a square, but --aspect keep does not make squares"
        )
    asked: dict[str, Any] = {"engine": name, **describe_asked(config.text)}
    if name == "scripted":
        return _choose_scripted(config, asked)
    if name == "server":
        return _choose_server(config, asked, recorded, ask=fetch)
    if name == "batch":
        return _choose_batch(config, asked, recorded)
    from captioner.engine.vllm_process import choose_dtype, is_batch_invariant

    model, engine = parse_model_name(config.engine.model), config.engine
    asked |= {
        "dtype": choose_dtype(engine.dtype),
        "kv_cache_dtype": engine.kv_cache_dtype,
        "max_model_len": engine.max_model_len,
    }
    if engine.quantization is not None:
        asked["quantization"] = engine.quantization
    if is_batch_invariant(engine):
        asked["batch_invariant"] = True
    obtain = obtain_weights if fetch else find_weights
    weights = obtain(model, revision=engine.revision)
    if weights is None:
        return _choose_unfetched(config, model, asked, recorded)
    return _choose_vllm(config, weights, asked)


def describe_asked(text: TextConfig) -> dict[str, Any]:
    """The part of a run's settings about prompts, for the fingerprint."""
    asked: dict[str, Any] = {"prompt": text.prompt, "sampling": asdict(text.sampling)}
    if text.system is not None:
        asked["system"] = text.system
    if text.policy != TextPolicy():
        asked["texts"] = text.policy.to_dict()
    return asked


def _choose_scripted(config: CaptionConfig, asked: dict[str, Any]) -> EngineChoice:
    preprocessing = Preprocessing(
        aspect=config.pixels.aspect or "pad",
        size=_SCRIPTED_SIZE,
        max_image_pixels=config.pixels.max_image_pixels,
    )
    settings = {
        "model": config.engine.model,
        "revision": "scripted",
        **asked,
        "preprocessing": preprocessing.to_dict(),
    }
    return EngineChoice(settings, preprocessing, lambda _: build_engine({"engine": "scripted"}))


def _choose_server(
    config: CaptionConfig, asked: dict[str, Any], recorded: Mapping[str, Any], *, ask: bool
) -> EngineChoice:
    """Images are prepared for the model if its files are here, else by its name.

    The servers are asked for their models now, so that nothing is written if they do not serve this
    one; except for a run that is finished or only inspected.
    """
    from captioner.engine.server import describe_servers

    model, server = config.engine.model, config.server
    if ask:
        describe_servers(server, model)
    settings, preprocessing = _describe_elsewhere(config, asked, recorded)
    description = {
        "engine": "server",
        "config": asdict(server),
        "model": model,
        "prompt": asdict(config.text.asked),
        "sampling": asked["sampling"],
        "preprocessing": preprocessing.to_dict(),
    }
    return EngineChoice(settings, preprocessing, lambda say: build_engine(description, say))


def _choose_batch(
    config: CaptionConfig, asked: dict[str, Any], recorded: Mapping[str, Any]
) -> EngineChoice:
    """The engine can only start once it knows its run, see `tie_to_run`."""
    from captioner.engine.server.chat import RequestForm

    settings, preprocessing = _describe_elsewhere(config, asked, recorded)
    settings["batch_format"] = config.batch.batch_format
    form = RequestForm(settings["model"])
    if config.batch.batch_format == "vllm":
        weights = _find_known(config.engine.model)
        if weights is None:
            raise UserError(
                f"--batch-format vllm needs the files of {settings['model']} on this machine, to "
                "know how its prompts begin: fetch them (`hf download`), or leave it out"
            )
        form = RequestForm.of_vllm(form.model, starts=needs_start(weights, config.text.asked))
    description = {
        "engine": "batch",
        "config": {"batch_file": str(config.batch.batch_file)},
        "form": asdict(form),
        "prompt": asdict(config.text.asked),
        "sampling": asked["sampling"],
        "preprocessing": preprocessing.to_dict(),
        "retry_errors": config.output.retry_errors,
    }
    return EngineChoice(
        settings,
        preprocessing,
        lambda say: build_engine(description, say),
        description=description,
        checked=True,
    )


def tie_to_run(choice: EngineChoice, run_id: str) -> EngineChoice:
    """The same for one run: requests in files contain its id, which is known last."""
    if choice.settings["engine"] != "batch":
        return choice
    description = {**choice.description, "run_id": run_id}
    return replace(
        choice, description=description, start=lambda say: build_engine(description, say)
    )


def _describe_elsewhere(
    config: CaptionConfig, asked: dict[str, Any], recorded: Mapping[str, Any]
) -> tuple[dict[str, Any], Preprocessing]:
    """The settings and preprocessing for a model that does not run here.

    `recorded` are the settings of the existing run, if any.
    """
    model, server, pixels = config.engine.model, config.server, config.pixels
    weights = _find_known(model)
    name = _name_served(model)
    if weights is not None:
        preprocessing = choose_preprocessing(
            weights, aspect=pixels.aspect, max_image_pixels=pixels.max_image_pixels
        )
    else:
        preprocessing = choose_unread(
            name, aspect=pixels.aspect, max_image_pixels=pixels.max_image_pixels
        )
    if server.image_size is not None:
        preprocessing = replace(preprocessing, size=server.image_size)
        # Without the model's files, most photos would be sent whole; a square needs padding. Runs
        # of earlier versions without it are continued.
        before = recorded.get("model") == name and recorded.get("preprocessing")
        if preprocessing.aspect == "keep" and before != preprocessing.to_dict():
            preprocessing = replace(preprocessing, aspect="pad")
    settings = {
        "model": name,
        # A server does not report its weights.
        "revision": None,
        **asked,
        "preprocessing": preprocessing.to_dict(),
    }
    return settings, preprocessing


def _name_served(model: str) -> str:
    """The model's full name, if it has a known short name."""
    try:
        return parse_model_name(model).name
    except UserError:
        return model


def _find_known(model: str) -> Weights | None:
    """The model's files, if they are on this machine; with a server they are not required."""
    try:
        return find_weights(parse_model_name(model))
    except UserError:
        return None


def _choose_unfetched(
    config: CaptionConfig,
    model: ModelName,
    asked: dict[str, Any],
    recorded: Mapping[str, Any],
) -> EngineChoice:
    """What is known about a model of the Hub without its files."""
    revision, aspect = config.engine.revision, config.pixels.aspect
    max_image_pixels = config.pixels.max_image_pixels
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
            f"the weights of {model.name} are needed but missing: run the same command again to "
            "download them"
        )

    preprocessing = Preprocessing(max_image_pixels=max_image_pixels)
    return EngineChoice(settings, preprocessing, start, unfetched=True)


def _choose_vllm(config: CaptionConfig, weights: Weights, asked: dict[str, Any]) -> EngineChoice:
    engine = config.engine
    preprocessing = choose_preprocessing(
        weights, aspect=config.pixels.aspect, max_image_pixels=config.pixels.max_image_pixels
    )
    template = read_chat_template(weights)
    if template is None:
        raise UserError(
            f"{weights.model} has no chat template, so the prompt cannot be formatted as in "
            "training: use a model that has one (such as those of llava-hf)"
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
        replace(engine, dtype=asked["dtype"]),
        prompt=config.text.asked,
        sampling=config.text.sampling,
        preprocessing=preprocessing,
    )

    def start(say: Say) -> Engine:
        # Checked where the engines start: a cluster's driver may have no GPU.
        environments = share_devices(weights, engine)
        return start_engines(
            description, environments, watch=lambda: _make_watchdog(engine), on_event=say
        )

    return EngineChoice(settings, preprocessing, start, template, weights.path, description)


def _make_watchdog(engine: EngineConfig) -> Watchdog:
    limit = engine.memory_limit
    return Watchdog(
        silence_seconds=SILENCE_SECONDS if engine.silence is None else engine.silence,
        memory_limit=None if limit is None else int(limit * 2**30),
    )
