"""Everything about a run that can be known, and refused, before anything is written."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict

from captioner.fingerprint import explain_difference, make_fingerprint
from captioner.plan import Plan, read_plan
from captioner.prompts import DEFAULT_PROMPT
from captioner.run_record import describe_images, list_versions
from captioner.sampling import Sampling
from captioner.settings import EngineChoice, choose_engine
from data.errors import UserError
from data.images import MAX_IMAGE_PIXELS
from data.schema import SCHEMA_VERSION
from data.shards import RUN_NAME, read_run
from data.sources import FolderListing, list_folder

DEFAULT_SHARD_SIZE = 1000
_PAPER = Sampling()


class CaptionArguments(TypedDict, total=False):
    """The arguments of `prepare_caption`, for those who hand them on."""

    model: Required[str]
    images: Required[Path]
    out: Path | None
    shard_size: int
    limit: int | None
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    aspect: str | None
    max_image_pixels: int
    revision: str | None
    retry_errors: bool
    engine: str
    dtype: str
    kv_cache_dtype: str
    gpu_memory: float
    max_model_len: int | None
    decode_workers: int | None


@dataclass(frozen=True)
class PreparedRun:
    """A run that may begin. `previous` is its run.json if it was begun before."""

    directory: Path
    images: Path
    plan: Plan
    choice: EngineChoice
    settings: dict[str, Any]
    fingerprint: str
    previous: dict[str, Any] | None
    retry_errors: bool
    decode_workers: int
    passed_over: dict[str, int]
    new_images: int

    @property
    def run_id(self) -> str:
        """Short, the same whenever the same is run."""
        return self.fingerprint[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """What every shard says about its making; nothing of the clock or the machine."""
        run = {**self.settings, "versions": list_versions(self.settings["engine"])}
        about = {
            "d2s.schema_version": str(SCHEMA_VERSION),
            "d2s.run_id": self.run_id,
            "d2s.engine": self.settings["engine"],
            "d2s.run": json.dumps(run, sort_keys=True, ensure_ascii=False),
        }
        if self.choice.chat_template is not None:
            about["d2s.chat_template"] = self.choice.chat_template
        return about


def prepare_caption(
    *,
    model: str,
    images: Path,
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
    engine: str = "vllm",
    dtype: str = "auto",
    kv_cache_dtype: str = "auto",
    gpu_memory: float = 0.92,
    max_model_len: int | None = None,
    decode_workers: int | None = None,
    fetch: bool = True,
) -> PreparedRun:
    """Check the arguments, list the images, and compare with what lies in `out`; writes nothing.

    Args:
        model: a short name, a Hub id or a folder with weights.
        images: the folder of images, read recursively.
        out: where shards go; `dense/<name of the images folder>` by default.
        limit: only the first so many images.
        temperature: 0 is greedy; the default sampling is the paper's.
        seed: of the run; each image's own seed comes from it and the image's path.
        aspect: pad, crop, squash or keep; by default as the model was trained.
        revision: branch, tag or commit of a model of the Hub.
        retry_errors: caption anew the images whose rows are errors.
        engine: vllm, or scripted for trying the machinery without a model.
        gpu_memory: share of the GPU's memory for the engine.
        max_model_len: tokens of prompt and text; by default as many as needed.
        decode_workers: processes that decode images; by default by the number of cores.
        fetch: fetch weights that are not here and are needed; without them nothing can be run.

    Raises:
        UserError: anything the caller can put right.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    images = Path(images)
    directory = Path(out) if out is not None else _default_out(images)
    listing = _list_images(images, directory)
    previous = _read_previous(directory)
    if previous is None:
        plan = Plan(listing.records[:limit], shard_size)
    else:
        plan = read_plan(directory, shard_size=int(previous["shard_size"]))
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
        recorded=(previous or {}).get("settings", {}),
        # A finished run has no need of them.
        fetch=fetch and (retry_errors or not (previous or {}).get("complete")),
    )
    settings = {
        **choice.settings,
        "shard_size": shard_size,
        "limit": limit,
        "plan": plan.hash(),
    }
    if previous is not None:
        _refuse_other_run(directory, previous, settings, images)
    return PreparedRun(
        directory=directory,
        images=images,
        plan=plan,
        choice=choice,
        settings=settings,
        fingerprint=make_fingerprint(settings),
        previous=previous,
        retry_errors=retry_errors,
        decode_workers=decode_workers or _count_workers(),
        passed_over=listing.passed_over,
        new_images=0 if limit is not None else _count_new(listing, plan),
    )


def _default_out(images: Path) -> Path:
    return Path("dense") / (images.resolve().name or "images")


def _list_images(images: Path, directory: Path) -> FolderListing:
    if directory.resolve() == images.resolve():
        raise UserError(f"--out is the images folder {images} itself: give another --out")
    return list_folder(images, exclude=[directory])


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


def _refuse_other_run(
    directory: Path, previous: dict[str, Any], settings: dict[str, Any], images: Path
) -> None:
    difference = explain_difference(previous["settings"], settings)
    here = describe_images(images)
    if not difference and previous.get("images") != here["images"] and not _moved(previous, here):
        difference = f"images is {previous.get('images')} there and {here['images']} here"
    if difference:
        raise UserError(
            f"{directory} holds a run with other settings: {difference}. "
            "Give another --out, or the settings of that run"
        )


def _moved(previous: dict[str, Any], here: dict[str, str | None]) -> bool:
    """Whether the project was moved as a whole, its images lying where they did in it."""
    relative = here["images_relative"]
    # `--images .` in two folders is no move: the images of the first are still there.
    gone = not Path(str(previous.get("images"))).exists()
    return gone and relative is not None and previous.get("images_relative") == relative


def _count_new(listing: FolderListing, plan: Plan) -> int:
    planned = {record.sample_id for record in plan.records}
    return sum(record.sample_id not in planned for record in listing.records)


def _count_workers() -> int:
    """One core is the engine's; eight decode more than any engine captions."""
    return max(1, min(8, len(os.sched_getaffinity(0)) - 1))
