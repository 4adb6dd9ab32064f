"""Preparing a run: everything that is checked before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioner.settings.config import CaptionConfig
from captioner.settings.engine import EngineChoice, choose_engine, tie_to_run
from captioner.settings.found import FoundImages, find_images, is_planned
from captioner.settings.growth import append_images, is_growth, keep_own
from captioner.settings.images import (
    hash_captions,
    name_out,
    refuse_other_images,
)
from captioner.settings.placement import describe_idle
from captioner.settings.prompts import TEXTS_NAME, NamedText
from captioner.store.journal import list_journals
from captioner.store.plan import Plan, list_additions, read_plan
from captioner.store.run_record import RunIdentity, make_fingerprint, make_shard_metadata
from data.dense.run import RUN_NAME, read_run
from data.dense.shards import list_shards
from data.environment import count_cores
from data.errors import UsageError, UserError
from data.escaping import show_name
from data.settings.building import is_decoded
from data.settings.differences import list_differences
from data.sources import ImageRecord, Source

_FETCHERS = 16


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start. `previous` is its run.json if it exists.

    `images` is how run.json names the images; `command` the words of the command line, if it was
    asked there; `shared` whether several processes write into the folder, or may do so unnoticed;
    `text` which of several texts of each image it is.
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
    text: NamedText | None = None

    def replace_each(self, **changes: Any) -> "PreparedRun":
        """A modified copy, as in `PreparedTexts`."""
        return replace(self, **changes)

    @property
    def planned_rows(self) -> int:
        """The number of rows: one per image, or one per sample."""
        return len(self.plan.records) * (1 if self.text is None else self.text.samples)

    @property
    def whole(self) -> CaptionConfig:
        """The whole configuration, including the other texts."""
        return self.config if self.text is None else self.text.whole

    @property
    def workers(self) -> int:
        """Number of decoding processes."""
        return self.config.pixels.workers or _count_workers(self.source)

    @property
    def fingerprint(self) -> str:
        """Hash of the settings."""
        return self.identity.fingerprint

    @property
    def run_id(self) -> str:
        """A short id that is the same for the same settings."""
        return self.identity.run_id

    @property
    def identity(self) -> RunIdentity:
        """The content of run.json before the run starts."""
        return RunIdentity(
            self.settings, self.images, self.source, self.whole.to_dict(), self.command
        )

    @property
    def about(self) -> dict[str, Any]:
        """What is stored with the plan."""
        return self.identity.to_dict()

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of every shard."""
        about = make_shard_metadata(self.settings, run_id=self.run_id)
        if self.choice.chat_template is not None:
            about["d2s.chat_template"] = self.choice.chat_template
        return about


def prepare_caption(
    config: CaptionConfig, *, fetch: bool = True, listed: bool = False
) -> PreparedRun:
    """Check the settings, list the images, and compare with the contents of `out`; writes nothing.

    With `fetch`, download missing weights; without them nothing can be run. `listed` means that
    another job has just listed the images and added new ones to the plan.

    Raises:
        UserError: anything that the caller can fix.
    """
    config.refuse_unfitting()
    directory = choose_directory(config)
    if (directory / TEXTS_NAME).is_file():
        raise UsageError(
            f"{directory} contains several texts per image: specify the file of their prompts with "
            "--prompts, or use another --out"
        )
    previous = read_previous(directory)
    images = find_images(config, directory, {directory: previous}, listed=listed)
    plan = find_plan(config, directory, previous, images)
    # A finished run does not need weights.
    needed = fetch and needs_engine(config, previous, plan)
    choice = choose_engine(config, recorded=(previous or {}).get("settings", {}), fetch=needed)
    settings = make_settings(config, choice.settings, plan)
    if previous is not None:
        changes, grows = compare_settings(previous, settings, plan)
        if changes and not (config.output.append and grows):
            raise make_refusal(directory, changes, grows=grows)
        refuse_moved(directory, previous, images, plan)
    grown = plan
    if images.grows:
        grown = append_images(plan, images.records, settings, by=images.key, where=directory)
    prepared = make_prepared(
        config, directory, images, choice, settings=settings, plans=(plan, grown), previous=previous
    )
    return replace(prepared, choice=tie_to_run(choice, prepared.run_id))


def choose_directory(config: CaptionConfig) -> Path:
    """The output folder."""
    out = config.output.out
    return out if out is not None else name_out(config.source.images)


def needs_engine(config: CaptionConfig, previous: Mapping[str, Any] | None, plan: Plan) -> bool:
    """Whether anything may be left to caption.

    A run that grew but was killed before it recorded that is marked as complete.
    """
    done, more = previous or {}, config.output.retry_errors or config.output.append
    return more or not done.get("complete") or done.get("planned") != len(plan.records)


def find_plan(
    config: CaptionConfig, directory: Path, previous: dict[str, Any] | None, images: FoundImages
) -> Plan:
    """The plan of the existing run, or a new one."""
    if previous is not None and is_planned(directory, previous):
        return read_plan(directory, shard_size=int(previous["shard_size"]))
    # A lost plan is rebuilt; the settings show that it is the same.
    return _plan_anew(images.records[: config.source.limit], config.output.shard_size, previous)


def make_settings(config: CaptionConfig, engine: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The settings that are hashed; `engine` is what rows depend on besides the images."""
    asked = config.source
    return {
        **engine,
        "shard_size": config.output.shard_size,
        "limit": asked.limit,
        "captions": None if asked.captions is None else hash_captions(asked.captions),
        "plan": plan.hash(),
    }


def refuse_moved(
    directory: Path, previous: Mapping[str, Any], images: FoundImages, plan: Plan
) -> None:
    """UserError if the images differ from those of the run."""
    missing = len(plan.records.select(images.records, among=False)) if images.records else 0
    refuse_other_images(directory, previous, images.named, missing=missing)


def make_prepared(
    config: CaptionConfig,
    directory: Path,
    images: FoundImages,
    choice: EngineChoice,
    *,
    settings: dict[str, Any],
    plans: tuple[Plan, Plan],
    previous: dict[str, Any] | None,
    text: NamedText | None = None,
) -> PreparedRun:
    """Build the PreparedRun; `plans` are the previous and the current one."""
    before, plan = plans
    listing = images.listing
    grown = len(plan.records) > len(before.records)
    new = images.records.select(plan.records, among=False, by=images.key)
    return PreparedRun(
        config=config,
        directory=directory,
        source=images.source if grown else images.known,
        images=images.named,
        plan=plan,
        choice=choice,
        # It remains the existing run.
        settings=settings if previous is None else keep_own(settings, previous["settings"]),
        previous=previous,
        passed_over=listing.passed_over if listing else {},
        notes=(
            *(listing.notes if listing else ()),
            *images.notes,
            *_describe_growth(before, plan),
            *_warn_of_idle(config, before, plan),
        ),
        new_images=0 if config.source.limit else len(new),
        shared=config.placement.shared,
        text=text,
    )


def read_previous(directory: Path) -> dict[str, Any] | None:
    """run.json of an earlier run in this folder, or None.

    Raises:
        UserError: the folder cannot be the output of a run.
    """
    if not is_decoded(str(directory)):
        raise UserError(f"--out {show_name(str(directory))} is not UTF-8, so Arrow cannot open it")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory} is a file: use a folder")
    if not (directory / RUN_NAME).is_file():
        if list_shards(directory) or list_journals(directory):
            raise UserError(
                f"{directory} contains other Parquet files (there is no {RUN_NAME}): use another "
                f"--out; if a run lost its {RUN_NAME}, `d2s verify --repair` rewrites it"
            )
        return None
    previous = read_run(directory)
    if "settings" not in previous or "shard_size" not in previous:
        raise UserError(
            f"{directory / RUN_NAME} does not belong to a captioning run: use another --out"
        )
    return previous


def _plan_anew(
    records: Sequence[ImageRecord], shard_size: int, previous: dict[str, Any] | None
) -> Plan:
    """The plan of a new run, or of one that has lost its plan."""
    try:
        return Plan(records, shard_size, list_additions((previous or {}).get("additions", ())))
    except ValueError as error:
        raise UserError(
            f"the plan is lost, and there are now fewer images ({len(records):,}) than it had: "
            "restore the others, or use another --out"
        ) from error


def _describe_growth(before: Plan, after: Plan) -> list[str]:
    count, shards = len(after.records) - len(before.records), after.shards - before.shards
    return [f"{count:,} new images are added in {shards:,} new shards"] if count else []


def _warn_of_idle(config: CaptionConfig, before: Plan, after: Plan) -> list[str]:
    """In a growing run, only new shards count: the others are probably written."""
    warning = describe_idle(
        config.placement.world_size,
        shards=after.shards - before.shards or after.shards,
        shard_size=after.shard_size,
        images=len(after.records) - len(before.records) or len(after.records),
    )
    return [warning] if warning else []


def refuse_other_fingerprint(prepared: PreparedRun) -> None:
    """UserError if the run that is now in the folder is not the prepared one."""
    there = read_run(prepared.directory)
    changes, grows = compare_settings(there, prepared.settings, prepared.plan)
    if changes:
        raise make_refusal(prepared.directory, changes, grows=grows)


def compare_settings(
    previous: Mapping[str, Any], settings: dict[str, Any], plan: Plan
) -> tuple[list[str], bool]:
    """The differences from the existing run, as lines, and whether `--append` allows them."""
    recorded = previous["settings"]
    newest = plan.additions[-1].settings if plan.additions else recorded
    if make_fingerprint(keep_own(settings, recorded))[:16] == previous.get("run_id"):
        # After a repair, the settings may lack the location of a folder.
        recorded = settings
    recorded = keep_own(recorded, newest)
    if recorded.get("captions") == "" and settings["captions"] is not None:
        # Earlier versions did not hash every folder of captions.
        recorded = {**recorded, "captions": settings["captions"]}
    return list_differences(recorded, settings), is_growth(recorded, settings)


def make_refusal(directory: Path, changes: Sequence[str], *, grows: bool = False) -> UserError:
    """The error for a folder whose run differs in `changes`."""
    way = "--append to add images, " if grows else ""
    return UserError(
        f"{directory} contains a run with other settings ({'; '.join(changes)}): "
        f"use another --out, {way}or the settings of that run"
    )


def _count_workers(source: Source) -> int:
    """One core is for the engine; eight processes decode more than any engine can caption.

    Remote images take more waiting than computing.
    """
    if source.kind == "urls":
        return _FETCHERS
    return max(1, min(8, count_cores() - 1))
