"""Everything about a run that can be known, and refused, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.settings.config import CaptionConfig
from captioner.settings.engine import EngineChoice, choose_engine
from captioner.settings.images import (
    describe_images,
    hash_captions,
    list_run_source,
    name_out,
    open_run_source,
    refuse_other_images,
)
from captioner.store.plan import Plan, read_plan
from captioner.store.run_record import RunIdentity, make_fingerprint, make_shard_metadata
from captioner.store.store import JOURNAL_FOLDER
from data.dense.run import PLAN_NAME, RUN_NAME, read_run
from data.dense.shards import list_shards
from data.environment import count_cores
from data.errors import UserError
from data.escaping import show_name
from data.settings.building import is_decoded
from data.settings.differences import list_differences
from data.sources import ImageRecord, Source
from data.sources.records import Records

_FETCHERS = 16
# Sources that may have more images when a run is taken up again; the others are told by content.
_GROWING = ("folder", "files", "urls")


@dataclass(frozen=True)
class PreparedRun:
    """A run that may begin. `previous` is its run.json if it was begun before.

    `images` is how run.json names the images; `command` the words of the command line, if it was
    asked there; `shared` whether several processes write into the folder, or may do so unnoticed.
    """

    config: CaptionConfig
    directory: Path
    source: Source
    images: dict[str, str | None]
    plan: Plan
    choice: EngineChoice
    settings: dict[str, Any]
    previous: dict[str, Any] | None
    passed_over: dict[str, int]
    notes: tuple[str, ...]
    new_images: int
    shared: bool
    command: tuple[str, ...] = ()

    @property
    def decode_workers(self) -> int:
        """Processes that decode images."""
        return self.config.pixels.decode_workers or _count_workers(self.source)

    @property
    def fingerprint(self) -> str:
        """Of the settings."""
        return self.identity.fingerprint

    @property
    def run_id(self) -> str:
        """Short, the same whenever the same is run."""
        return self.identity.run_id

    @property
    def identity(self) -> RunIdentity:
        """What run.json says of it before it begins."""
        return RunIdentity(
            self.settings, self.images, self.source, self.config.to_dict(), self.command
        )

    @property
    def metadata(self) -> dict[str, str]:
        """What every shard says about its making."""
        about = make_shard_metadata(self.settings, run_id=self.run_id)
        if self.choice.chat_template is not None:
            about["d2s.chat_template"] = self.choice.chat_template
        return about


def prepare_caption(config: CaptionConfig, *, fetch: bool = True) -> PreparedRun:
    """Check the settings, list the images, and compare with what lies in `out`; writes nothing.

    `fetch` weights that are not here and are needed; without them nothing can be run.

    Raises:
        UserError: anything the caller can put right.
    """
    config.refuse_unfitting()
    asked, output = config.source, config.output
    directory = output.out if output.out is not None else name_out(asked.images)
    previous = _read_previous(directory)
    source = open_run_source(asked.images, asked.options, directory=directory, previous=previous)
    listing = None
    planned = previous is not None and (directory / PLAN_NAME).is_file()
    # One of several takes the plan as it is.
    if not planned or (source.kind in _GROWING and not config.placement.shared):
        listing = list_run_source(source, asked.options, captions=asked.captions, exclude=directory)
    if previous is not None and planned:
        plan = read_plan(directory, shard_size=int(previous["shard_size"]))
    else:
        # A plan that was lost is made anew; that it is the same one is seen by the settings.
        assert listing is not None
        plan = Plan(listing.records[: asked.limit], output.shard_size)
    begun = previous or {}
    # A finished run has no need of weights.
    needed = fetch and (output.retry_errors or not begun.get("complete"))
    choice = choose_engine(config, recorded=begun.get("settings", {}), fetch=needed)
    settings = {
        **choice.settings,
        "shard_size": output.shard_size,
        "limit": asked.limit,
        "captions": None if asked.captions is None else hash_captions(asked.captions),
        "plan": plan.hash(),
    }
    named = describe_images(asked.images, source)
    found = listing.records if listing else ()
    if previous is not None:
        _refuse_other_settings(directory, previous, settings)
        missing = _count_new(plan.records, found) if found else 0
        refuse_other_images(directory, previous, named, missing=missing)
    return PreparedRun(
        config=config,
        directory=directory,
        source=source,
        images=named,
        plan=plan,
        choice=choice,
        settings=settings,
        previous=previous,
        passed_over=listing.passed_over if listing else {},
        notes=listing.notes if listing else (),
        new_images=0 if asked.limit else _count_new(found, plan.records),
        shared=config.placement.shared,
    )


def _read_previous(directory: Path) -> dict[str, Any] | None:
    """run.json of an earlier run in this folder, or None if there was none.

    Raises:
        UserError: the folder cannot be the output of a run.
    """
    if not is_decoded(str(directory)):
        raise UserError(f"--out {show_name(str(directory))} is no UTF-8, which Arrow cannot open")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory} is a file: give a folder")
    if not (directory / RUN_NAME).is_file():
        if list_shards(directory) or any(directory.glob(f"{JOURNAL_FOLDER}/*.jsonl")):
            raise UserError(
                f"{directory} holds Parquet files of something else (there is no {RUN_NAME}): "
                "give another --out; if a run lost it, `d2s verify --repair` writes it anew"
            )
        return None
    previous = read_run(directory)
    if "settings" not in previous or "shard_size" not in previous:
        raise UserError(f"{directory / RUN_NAME} is not of a captioning run: give another --out")
    return previous


def refuse_other_fingerprint(prepared: PreparedRun) -> None:
    """UserError if the run that lies in the folder by now is not the one that was prepared."""
    _refuse_other_settings(prepared.directory, read_run(prepared.directory), prepared.settings)


def _refuse_other_settings(
    directory: Path, previous: dict[str, Any], settings: dict[str, Any]
) -> None:
    changes = list_differences(previous["settings"], settings)
    # Of a run that was repaired the settings may lack a folder's place.
    if changes and make_fingerprint(settings)[:16] != previous.get("run_id"):
        raise UserError(
            f"{directory} holds a run with other settings ({'; '.join(changes)}): "
            "give another --out, or the settings of that run"
        )


def _count_new(records: Sequence[ImageRecord], known: Sequence[ImageRecord]) -> int:
    return Records.collect(records).count_unknown(Records.collect(known))


def _count_workers(source: Source) -> int:
    """One core is the engine's; eight decode more than any engine captions.

    What is fetched from elsewhere is waited for more than it is worked on.
    """
    if source.kind == "urls":
        return _FETCHERS
    return max(1, min(8, count_cores() - 1))
