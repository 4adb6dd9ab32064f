"""Everything about a run that can be known, and refused, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.engine.watchdog import SILENCE_SECONDS, Watchdog
from captioner.llava.names import DEFAULT_PROMPT
from captioner.llava.sampling import Sampling
from captioner.settings.arguments import Placement, refuse_unfitting
from captioner.settings.engine import EngineChoice, choose_engine
from captioner.settings.images import (
    describe_images,
    hash_captions,
    list_run_source,
    name_out,
    open_run_source,
    refuse_other_images,
)
from captioner.settings.text_policy import TextPolicy
from captioner.store.plan import Plan, read_plan
from captioner.store.run_record import make_fingerprint, make_shard_metadata
from data.cores import count_cores
from data.dense.run import RUN_NAME, read_run
from data.errors import UserError
from data.images import MAX_IMAGE_PIXELS
from data.settings import list_differences
from data.sources import Listing, Source
from data.sources.columns import Columns
from data.sources.opening import SourceOptions
from data.sources.records import Records

DEFAULT_SHARD_SIZE = 1000
_PAPER = Sampling()
_NO_COLUMNS = Columns()
_ALONE = Placement()
_FETCHERS = 16
# Sources that may have more images when a run is taken up again; the others are told by content.
_GROWING = ("folder", "files", "urls")


@dataclass(frozen=True)
class PreparedRun:
    """A run that may begin. `previous` is its run.json if it was begun before.

    `images` is how run.json names the images; `arguments` is what was asked for; `command` the
    words of the command line, if it was asked there.
    """

    directory: Path
    source: Source
    images: dict[str, str | None]
    plan: Plan
    choice: EngineChoice
    policy: TextPolicy
    settings: dict[str, Any]
    fingerprint: str
    previous: dict[str, Any] | None
    retry_errors: bool
    decode_workers: int
    passed_over: dict[str, int]
    notes: tuple[str, ...]
    new_images: int
    placement: Placement
    arguments: dict[str, Any]
    command: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        """Short, the same whenever the same is run."""
        return self.fingerprint[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """What every shard says about its making."""
        about = make_shard_metadata(self.settings, run_id=self.run_id)
        if self.choice.chat_template is not None:
            about["d2s.chat_template"] = self.choice.chat_template
        return about


def prepare_caption(
    *,
    model: str,
    images: Path | str,
    image_root: Path | None = None,
    split: str | None = None,
    dataset_config: str | None = None,
    streaming: bool = False,
    columns: Columns = _NO_COLUMNS,
    captions: Path | None = None,
    out: Path | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    limit: int | None = None,
    prompt: str = DEFAULT_PROMPT,
    temperature: float = _PAPER.temperature,
    top_p: float = _PAPER.top_p,
    max_tokens: int = _PAPER.max_tokens,
    seed: int = _PAPER.seed,
    aspect: str | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    revision: str | None = None,
    retry_errors: bool = False,
    retry_flagged: Sequence[str] = (),
    repetition_penalty: float = TextPolicy.repetition_penalty,
    trim: bool = False,
    engine: str | None = None,
    servers: Sequence[str] = (),
    server_window: int | None = None,
    server_patience: float | None = None,
    image_size: int | None = None,
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    gpu_memory: float | None = None,
    max_model_len: int | None = None,
    engines: int | None = None,
    tensor_parallel_size: int = 1,
    decode_workers: int | None = None,
    memory_limit: float | None = None,
    silence: float | None = None,
    placement: Placement = _ALONE,
    fetch: bool = True,
) -> PreparedRun:
    """Check the arguments, list the images, and compare with what lies in `out`; writes nothing.

    Args:
        model: a short name, a Hub id or a folder with weights.
        images: a folder (read recursively), a pattern, a list of paths or addresses (.txt), COCO's
            or Karpathy's JSON, .tar or .parquet files, or `hf:NAME` for a data set.
        image_root: where the files of a list or of a JSON lie; its own folder by default.
        split: only this split of a JSON; which split of a data set.
        dataset_config: the configuration of a data set.
        streaming: read a data set from front to back instead of fetching it.
        columns: of Parquet files and data sets; the usual names by default. Addresses in a column
            of images are fetched if it is named.
        captions: human captions, to be stored beside the dense text.
        out: where shards go; `dense/<name of the images>` by default.
        limit: only the first so many images.
        temperature: 0 is greedy; the default sampling is the paper's.
        seed: of the run; each image's own seed comes from it and the image's name.
        aspect: pad, crop, squash or keep; by default as the model was trained.
        revision: branch, tag or commit of a model of the Hub.
        retry_errors: caption anew the images whose rows are errors.
        retry_flagged: generate a text with one of these flags once more, and keep the better one.
        repetition_penalty: of that second generation.
        trim: cut a text that stops midway back to its last full sentence.
        engine: vllm, server, or scripted for trying the machinery without a model; by default
            server where `servers` are given, else vllm.
        servers: addresses of OpenAI-compatible servers.
        server_window: requests in flight at each server; by default 128 at a vLLM, 16 at others.
        server_patience: seconds that all servers may fail before the run gives up; 300 by default.
        image_size: side of the square that servers get, where the model's files are not here.
        gpu_memory: share of the GPU's memory for the engine; 0.92 by default.
        max_model_len: tokens of prompt and text; by default as many as needed.
        engines: how many engines on this machine; by default one per GPU, or per core for a small
            model on a CPU.
        tensor_parallel_size: GPUs of one engine, for a model that one cannot hold.
        decode_workers: processes that decode images; by default by the number of cores.
        memory_limit: GiB of memory beyond which the engine is started anew.
        silence: seconds without a sign of life after which the engine is started anew; 300 by
            default.
        placement: in this process, as one of several jobs, or on a cluster.
        fetch: fetch weights that are not here and are needed; without them nothing can be run.

    Raises:
        UserError: anything the caller can put right.
    """
    # For those who do the same elsewhere (captioner.run.ray).
    arguments = dict(locals())
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    engine = engine or ("server" if servers else "vllm")
    refuse_unfitting(
        engine=engine,
        servers=servers,
        clustered=placement.cluster is not None,
        of_an_engine={
            "--revision": revision,
            "--engines": engines,
            "--max-model-len": max_model_len,
            "--dtype": dtype != "auto",
            "--kv-cache-dtype": kv_cache_dtype != "auto",
            "--gpu-memory": gpu_memory,
            "--tensor-parallel-size": tensor_parallel_size != 1,
            "--memory-limit": memory_limit,
            "--silence": silence,
        },
        of_servers={
            "--server-window": server_window,
            "--server-patience": server_patience,
            "--image-size": image_size,
        },
    )
    options = SourceOptions(image_root, split, dataset_config, streaming, columns)
    directory = Path(out) if out is not None else name_out(images)
    previous = _read_previous(directory)
    source = open_run_source(images, options, directory=directory, previous=previous)
    listing = None
    if previous is None or source.kind in _GROWING:
        listing = list_run_source(source, options, captions=captions, exclude=directory)
    if previous is None:
        assert listing is not None
        plan = Plan(listing.records[:limit], shard_size)
    else:
        plan = read_plan(directory, shard_size=int(previous["shard_size"]))
    policy = TextPolicy(tuple(retry_flagged), repetition_penalty, trim)
    limit_bytes = None if memory_limit is None else int(memory_limit * 2**30)
    choice = choose_engine(
        engine=engine,
        model=model,
        revision=revision,
        prompt=prompt,
        sampling=Sampling(temperature, top_p, max_tokens, seed),
        aspect=aspect,
        max_image_pixels=max_image_pixels,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        gpu_memory=gpu_memory,
        max_model_len=max_model_len,
        # A cluster's worker is one engine; the cluster decides how many there are.
        engines=engines or (1 if placement.cluster else None),
        tensor_parallel_size=tensor_parallel_size,
        servers=servers,
        server_window=server_window,
        server_patience=server_patience,
        image_size=image_size,
        policy=policy,
        watch=lambda: Watchdog(
            silence_seconds=SILENCE_SECONDS if silence is None else silence,
            memory_limit=limit_bytes,
        ),
        recorded=(previous or {}).get("settings", {}),
        # A finished run has no need of them.
        fetch=fetch and (retry_errors or not (previous or {}).get("complete")),
    )
    settings = {
        **choice.settings,
        "shard_size": shard_size,
        "limit": limit,
        "captions": None if captions is None else hash_captions(captions),
        "plan": plan.hash(),
    }
    named = describe_images(images, source)
    if previous is not None:
        _refuse_other_settings(directory, previous, settings)
        refuse_other_images(directory, previous, named)
    return PreparedRun(
        directory=directory,
        source=source,
        images=named,
        plan=plan,
        choice=choice,
        policy=policy,
        settings=settings,
        fingerprint=make_fingerprint(settings),
        previous=previous,
        retry_errors=retry_errors,
        decode_workers=decode_workers or _count_workers(source),
        passed_over=listing.passed_over if listing else {},
        notes=listing.notes if listing else (),
        new_images=0 if limit is not None or listing is None else _count_new(listing, plan),
        placement=placement,
        arguments=arguments,
    )


def _read_previous(directory: Path) -> dict[str, Any] | None:
    """run.json of an earlier run in this folder, or None if there was none.

    Raises:
        UserError: the folder cannot be the output of a run.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory} is a file: give a folder")
    if not (directory / RUN_NAME).is_file():
        if any(directory.glob("*.parquet")) and not _was_cut_off(directory):
            raise UserError(
                f"{directory} holds Parquet files of something else (there is no {RUN_NAME}): "
                "give another --out"
            )
        return None
    previous = read_run(directory)
    if "settings" not in previous or "shard_size" not in previous:
        raise UserError(f"{directory / RUN_NAME} is not of a captioning run: give another --out")
    return previous


def _was_cut_off(directory: Path) -> bool:
    """Killed between the plan and run.json: nothing was captioned yet."""
    return [path.name for path in directory.glob("*.parquet")] == ["plan.parquet"]


def refuse_other_fingerprint(prepared: PreparedRun) -> None:
    """UserError if the run that lies in the folder by now is not the one that was prepared."""
    _refuse_other_settings(prepared.directory, read_run(prepared.directory), prepared.settings)


def _refuse_other_settings(
    directory: Path, previous: dict[str, Any], settings: dict[str, Any]
) -> None:
    changes = list_differences(previous["settings"], settings)
    if changes:
        raise UserError(
            f"{directory} holds a run with other settings ({'; '.join(changes)}): "
            "give another --out, or the settings of that run"
        )


def _count_new(listing: Listing, plan: Plan) -> int:
    return Records.collect(listing.records).count_unknown(plan.records)


def _count_workers(source: Source) -> int:
    """One core is the engine's; eight decode more than any engine captions.

    What is fetched from elsewhere is waited for more than it is worked on.
    """
    if source.kind == "urls":
        return _FETCHERS
    return max(1, min(8, count_cores() - 1))
