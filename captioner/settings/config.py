"""The settings of a captioning run: one object for the command line, Python, YAML and run.json.

Sections are frozen dataclasses; their fields have the names of the options of `d2s caption` and of
the keyword arguments of `captioner.caption`. Each name is in exactly one section.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from captioner.engine.config import BatchConfig, EngineConfig, ServerConfig
from captioner.llava.chat_template import Prompt
from captioner.llava.names import DEFAULT_PROMPT
from captioner.llava.preprocess import Aspect
from captioner.llava.sampling import Sampling
from captioner.settings.placement import Placement
from captioner.settings.text_policy import TextPolicy
from data.errors import UsageError, UserError
from data.images import MAX_IMAGE_PIXELS
from data.settings.building import build, refuse_below, refuse_undecoded
from data.settings.yaml_files import merge, parse_override, read_yaml
from data.sources.columns import Columns
from data.sources.opening import SourceOptions

DEFAULT_SHARD_SIZE = 10_000
# Options of `output` that a call asks for; the others are the run's.
_OF_ONE_CALL = ("append", "retry_errors", "mix_versions", "redo")


@dataclass(frozen=True)
class SourceConfig:
    """Which images.

    Attributes:
        images: a folder (read recursively), a pattern, a list of paths or URLs (.txt), COCO's
            or Karpathy's JSON, .tar or .parquet files, or `hf:NAME` for a data set.
        image_root: the folder of the files in a list or JSON; by default that of the list or JSON.
        split: the split of a JSON file or data set.
        dataset_config: the configuration of a data set.
        streaming: read a data set sequentially instead of downloading it.
        image_column, id_column, caption_column: columns of Parquet files and data sets; by default
            found by the usual names. URLs in a column of images are only fetched if it is named
            here.
        captions: human captions, to be stored with the dense text.
        limit: only the first images, up to this number.
    """

    images: str
    image_root: Path | None = None
    split: str | None = None
    dataset_config: str | None = None
    streaming: bool = False
    image_column: str | None = None
    id_column: str | None = None
    caption_column: str | None = None
    captions: Path | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise UserError("--images is empty")
        refuse_below(1, self, "limit")

    @property
    def options(self) -> SourceOptions:
        """The options in the form of `data.sources`."""
        columns = Columns(image=self.image_column, id=self.id_column, captions=self.caption_column)
        return SourceOptions(
            self.image_root, self.split, self.dataset_config, self.streaming, columns
        )


@dataclass(frozen=True)
class TextConfig:
    """The prompt, and what is done with the text.

    Attributes:
        prompt: rendered in the model's own chat template.
        prompts: a YAML file of several texts per image, instead of the prompt.
        system: the system prompt; vicuna is the one LLaVA-1.5 was tuned with.
        temperature, top_p, max_tokens, seed: see `Sampling`.
        retry_flagged, repetition_penalty, trim: see `TextPolicy`.
    """

    prompt: str = DEFAULT_PROMPT
    prompts: Path | None = None
    system: str | None = None
    temperature: float = Sampling.temperature
    top_p: float = Sampling.top_p
    max_tokens: int = Sampling.max_tokens
    seed: int | None = Sampling.seed
    retry_flagged: tuple[str, ...] = ()
    repetition_penalty: float = TextPolicy.repetition_penalty
    trim: bool = False

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError("--prompt is empty")
        if self.prompts is not None and self.prompt != DEFAULT_PROMPT:
            raise UsageError("--prompt and --prompts cannot be combined: the file has the prompts")
        if self.system is not None and not self.system.strip():
            raise UserError("--system is empty: omit it")
        refuse_undecoded(self, "prompt", "system")
        # Both report invalid values themselves.
        _ = self.sampling, self.policy

    @property
    def asked(self) -> Prompt:
        return Prompt(self.prompt, self.system)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)

    @property
    def policy(self) -> TextPolicy:
        return TextPolicy(self.retry_flagged, self.repetition_penalty, self.trim)


@dataclass(frozen=True)
class PixelsConfig:
    """How images are read.

    Attributes:
        aspect: pad, crop, squash or keep; by default as the model was trained.
        max_image_pixels: larger images become error rows.
        workers: number of decoding processes; by default it depends on the number of cores.
    """

    aspect: Aspect | None = None
    max_image_pixels: int = MAX_IMAGE_PIXELS
    workers: int | None = None

    def __post_init__(self) -> None:
        refuse_below(1, self, "max_image_pixels", "workers")


@dataclass(frozen=True)
class OutputConfig:
    """Where rows are written.

    Attributes:
        out: `dense/<name of the images>` by default.
        shard_size: rows per Parquet file.
        append: add images that are new, or beyond an earlier limit, to the run.
        retry_errors: caption the images of error rows again.
        mix_versions: continue with other package versions than those of the existing rows.
        redo: generate texts again whose settings changed, and those that read them; the old ones
            are moved to `replaced/`.
    """

    out: Path | None = None
    shard_size: int = DEFAULT_SHARD_SIZE
    append: bool = False
    retry_errors: bool = False
    mix_versions: bool = False
    redo: bool = False

    def __post_init__(self) -> None:
        refuse_below(1, self, "shard_size")


@dataclass(frozen=True)
class CaptionConfig:
    """All sections; `d2s caption --config run.yaml` reads one, `--set text.seed=1` changes it."""

    source: SourceConfig
    engine: EngineConfig
    server: ServerConfig = ServerConfig()
    batch: BatchConfig = BatchConfig()
    text: TextConfig = TextConfig()
    pixels: PixelsConfig = PixelsConfig()
    output: OutputConfig = OutputConfig()
    placement: Placement = Placement()

    @classmethod
    def of(cls, **options: Any) -> CaptionConfig:
        """From options by name: `of(model="llava-1.5-7b", images="coco/", seed=1)`.

        A whole section can be passed by its name instead: `placement=Placement(...)`.

        Raises:
            UserError: an unknown option, or an invalid value.
        """
        return cls.read(options=options)

    @classmethod
    def read(
        cls,
        path: Path | None = None,
        *,
        overrides: Iterable[str] = (),
        options: Mapping[str, Any],
    ) -> CaptionConfig:
        """From a YAML file or run.json, overridden by `section.name=value`, and both by options.

        A run.json has the settings of a run; what only one call asked for is not taken over.

        Raises:
            UserError: an unknown setting, an invalid value, or no `source.images` or
                `engine.model`.
        """
        values = {} if path is None else read_yaml(path)
        if "config" in values:
            values = _drop_invocation(values["config"], path)
        for text in overrides:
            values = merge(values, parse_override(text))
        values = merge(values, _nest_options(options))
        prompts = _look_up(values, "text", "prompts")
        if prompts and _look_up(values, "engine", "model") is None:
            values = merge(values, {"engine": {"model": _find_model(Path(prompts))}})
        for section, name in (("engine", "model"), ("source", "images")):
            if _look_up(values, section, name) is None:
                raise UsageError(f"--{name} is missing (or {section}.{name} in a --config)")
        return build(cls, values, what="the captioning run")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return json.loads(json.dumps(asdict(self), default=os.fspath))

    @property
    def engine_name(self) -> str:
        """vllm, server, batch or scripted."""
        if self.engine.engine is not None:
            return self.engine.engine
        if self.batch.batch_file is not None:
            return "batch"
        return "server" if self.server.servers else "vllm"

    def refuse_unfitting(self) -> None:
        """Refuse options that the requested engine would ignore.

        Raises:
            UsageError: such an option was given.
        """
        servers, name = self.server.servers, self.engine_name
        if self.output.redo and self.text.prompts is None:
            raise UsageError("--redo works with several texts per image: add --prompts")
        if (name == "server") != bool(servers):
            raise UsageError("--engine server and --server URL need each other")
        if self.placement.cluster and self.engine.engines:
            raise UsageError("--engines is for one machine: with --cluster, use --cluster-engines")
        self._refuse_beside_batch()
        self.refuse_set_elsewhere()

    def refuse_set_elsewhere(self) -> None:
        """Refuse options of the model that are set where it runs.

        Raises:
            UsageError: such an option was given.
        """
        servers, batch = self.server.servers, self.batch.batch_file is not None
        for option in _list_changed(self.engine, but=("model", "engine")):
            if batch:
                raise UsageError(
                    f"{option} is set where the requests are answered: omit it with --batch-file"
                )
            if servers:
                raise UsageError(f"{option} is set on the server: omit it with --server")
            if self.engine_name == "scripted":
                raise UsageError(f"{option} needs an engine with a model, and scripted has none")
        for option in _list_changed(self.server, but=("servers",)):
            if not servers and not (batch and option == "--image-size"):
                raise UsageError(f"{option} works with --server only")

    def _refuse_beside_batch(self) -> None:
        """Refuse options that cannot be combined with batch files."""
        if self.batch.batch_file is None:
            if self.engine_name == "batch" or self.batch != BatchConfig():
                raise UsageError("--batch-format and --engine batch require --batch-file")
            return
        if self.engine_name != "batch" or self.server.servers:
            raise UsageError("--batch-file cannot be combined with --server or --engine")
        if self.text.prompts is not None:
            raise UsageError(
                "--batch-file works with one text per image: use --prompt instead of --prompts"
            )
        if self.placement.shared:
            raise UsageError("--batch-file works with one job: omit --world-size and --cluster")


def _nest_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Nest options under their sections."""
    hints = get_type_hints(CaptionConfig)
    sections = {field.name: section for section in hints for field in fields(hints[section])}
    nested: dict[str, Any] = {}
    for name, value in options.items():
        if name in hints and is_dataclass(value) and not isinstance(value, type):
            nested[name] = asdict(value)
        elif name in hints and isinstance(value, Mapping):
            nested[name] = dict(value)
        else:
            # Unknown options stay at the top level, and are refused by name.
            place = nested.setdefault(sections[name], {}) if name in sections else nested
            place[name] = os.fspath(value) if name == "images" else value
    return nested


def _drop_invocation(recorded: Any, path: Path | None) -> dict[str, Any]:
    """The settings in run.json, without those of a single call, such as the rank of a job."""
    output = recorded.get("output") or {} if isinstance(recorded, Mapping) else None
    if not isinstance(output, Mapping):
        raise UsageError(f"`config` in {path} does not have the sections of a run's settings")
    values = {name: value for name, value in recorded.items() if name != "placement"}
    kept = {name: value for name, value in output.items() if name not in _OF_ONE_CALL}
    return {**values, "output": kept}


def _look_up(values: Mapping[str, Any], section: str, name: str) -> Any:
    within = values.get(section)
    return within.get(name) if isinstance(within, Mapping) else None


def _find_model(prompts: Path) -> str | None:
    """The model of the first text, if every text names its own, so that no other is needed."""
    try:
        asked = read_yaml(prompts).values()
    except UserError as error:
        raise UsageError(str(error)) from error
    models = [about.get("model") if isinstance(about, Mapping) else None for about in asked]
    return models[0] if all(models) else None


def _list_changed(section: Any, *, but: tuple[str, ...]) -> list[str]:
    """The options of a section that differ from their defaults."""
    changed = (f.name for f in fields(section) if f.name not in but)
    given = [name for name in changed if getattr(section, name) != getattr(type(section), name)]
    return [f"--{name.replace('_', '-')}" for name in given]
