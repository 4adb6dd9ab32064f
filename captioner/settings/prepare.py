"""Everything about a run that can be known, and refused, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.settings.config import CaptionConfig
from captioner.settings.engine import EngineChoice, choose_engine
from captioner.settings.growth import append_images, is_growth, keep_own
from captioner.settings.images import (
    describe_images,
    hash_captions,
    list_run_source,
    name_out,
    open_run_source,
    refuse_other_images,
)
from captioner.store.plan import Plan, list_additions, read_plan
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
    def workers(self) -> int:
        """Processes that decode images."""
        return self.config.pixels.workers or _count_workers(self.source)

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
    def about(self) -> dict[str, Any]:
        """What the plan keeps of it."""
        return self.identity.to_dict()

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
    looked_at = source.kind in _GROWING and not config.placement.shared
    if not planned or looked_at or output.append:
        listing = list_run_source(source, asked.options, captions=asked.captions, exclude=directory)
    if previous is not None and planned:
        plan = read_plan(directory, shard_size=int(previous["shard_size"]))
    else:
        # A plan that was lost is made anew; that it is the same one is seen by the settings.
        assert listing is not None
        plan = _plan_anew(listing.records[: asked.limit], output.shard_size, previous)
    begun = previous or {}
    # A finished run has no need of weights.
    more = output.retry_errors or output.append
    needed = fetch and (more or not begun.get("complete"))
    choice = choose_engine(config, recorded=begun.get("settings", {}), fetch=needed)
    settings = {
        **choice.settings,
        "shard_size": output.shard_size,
        "limit": asked.limit,
        "captions": None if asked.captions is None else hash_captions(asked.captions),
        "plan": plan.hash(),
    }
    named = describe_images(asked.images, source)
    found, old = Records.collect(listing.records if listing else ()), plan
    if previous is not None:
        _refuse_other_settings(directory, previous, settings, plan=plan, append=output.append)
        missing = len(plan.records.select(found, among=False)) if found else 0
        refuse_other_images(directory, previous, named, missing=missing)
        if output.append and planned:
            plan = append_images(plan, found, settings, where=directory)
        # The run stays the one that was begun.
        settings = keep_own(settings, previous["settings"])
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
        notes=(*(listing.notes if listing else ()), *_describe_growth(old, plan)),
        new_images=0 if asked.limit else len(found.select(plan.records, among=False)),
        shared=config.placement.shared,
    )


def _read_previous(directory: Path) -> dict[str, Any] | None:
    """run.json of an earlier run in this folder, or None if there was none.

    Raises:
        UserError: the folder cannot be the output of a run.
    """
    if not is_decoded(str(directory)):
        raise UserError(f"--out {show_name(str(directory))} is not UTF-8, which Arrow cannot open")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory} is a file: give a folder")
    if not (directory / RUN_NAME).is_file():
        if list_shards(directory) or any(directory.glob(f"{JOURNAL_FOLDER}/*.jsonl")):
            raise UserError(
                f"{directory} holds Parquet files of something else (there is no {RUN_NAME}): "
                "give another --out; if a run lost it, `d2s verify --repair` rewrites it"
            )
        return None
    previous = read_run(directory)
    if "settings" not in previous or "shard_size" not in previous:
        raise UserError(f"{directory / RUN_NAME} is not of a captioning run: give another --out")
    return previous


def _plan_anew(
    records: Sequence[ImageRecord], shard_size: int, previous: dict[str, Any] | None
) -> Plan:
    """The plan of a run that is new, or that has lost it."""
    try:
        return Plan(records, shard_size, list_additions((previous or {}).get("additions", ())))
    except ValueError as error:
        raise UserError(
            f"the plan is lost, and the {len(records):,} images now are fewer than it had: bring "
            "the others back, or give another --out"
        ) from error


def _describe_growth(before: Plan, after: Plan) -> list[str]:
    count, shards = len(after.records) - len(before.records), after.shards - before.shards
    return [f"{count:,} new images are added in {shards:,} new shards"] if count else []


def refuse_other_fingerprint(prepared: PreparedRun) -> None:
    """UserError if the run that lies in the folder by now is not the one that was prepared."""
    there = read_run(prepared.directory)
    _refuse_other_settings(
        prepared.directory, there, prepared.settings, plan=prepared.plan, append=False
    )


def _refuse_other_settings(
    directory: Path,
    previous: dict[str, Any],
    settings: dict[str, Any],
    *,
    plan: Plan,
    append: bool,
) -> None:
    recorded = previous["settings"]
    newest = plan.additions[-1].settings if plan.additions else recorded
    if make_fingerprint(keep_own(settings, recorded))[:16] == previous.get("run_id"):
        # Of a run that was repaired the settings may lack a folder's place.
        recorded = settings
    recorded = keep_own(recorded, newest)
    changes, grows = list_differences(recorded, settings), is_growth(recorded, settings)
    if changes and not (append and grows):
        way = "--append to add to it, " if grows else ""
        raise UserError(
            f"{directory} holds a run with other settings ({'; '.join(changes)}): "
            f"give another --out, {way}or the settings of that run"
        )


def _count_workers(source: Source) -> int:
    """One core is the engine's; eight decode more than any engine captions.

    What is fetched from elsewhere is waited for more than it is worked on.
    """
    if source.kind == "urls":
        return _FETCHERS
    return max(1, min(8, count_cores() - 1))
