"""Everything about a run that can be known, and refused, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.settings.config import CaptionConfig
from captioner.settings.engine import EngineChoice, choose_engine
from captioner.settings.growth import append_images, is_growth, keep_own
from captioner.settings.images import (
    describe_images,
    find_recorded_source,
    hash_captions,
    list_run_source,
    name_out,
    open_run_source,
    refuse_other_images,
)
from captioner.settings.prompts import TEXTS_NAME, NamedText
from captioner.store.plan import Plan, list_additions, read_plan
from captioner.store.run_record import RunIdentity, make_fingerprint, make_shard_metadata
from captioner.store.store import JOURNAL_FOLDER
from data.dense.run import PLAN_NAME, RUN_NAME, read_run
from data.dense.shards import list_shards
from data.environment import count_cores
from data.errors import UsageError, UserError
from data.escaping import show_name
from data.settings.building import is_decoded
from data.settings.differences import list_differences
from data.sources import ImageRecord, Listing, Source
from data.sources.records import Records

_FETCHERS = 16
# Sources that may have more images when a run is taken up again; the others are told by content.
_GROWING = ("folder", "files", "urls")


@dataclass(frozen=True)
class PreparedRun:
    """A run that may begin. `previous` is its run.json if it was begun before.

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

    @property
    def planned_rows(self) -> int:
        """How many rows it will have: of each image one, or its samples."""
        return len(self.plan.records) * (1 if self.text is None else self.text.samples)

    @property
    def whole(self) -> CaptionConfig:
        """What was asked for, with the other texts of each image."""
        return self.config if self.text is None else self.text.whole

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
            self.settings, self.images, self.source, self.whole.to_dict(), self.command
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


@dataclass(frozen=True)
class FoundImages:
    """Where the images are, and all that there are now; None where nobody need look.

    `known` is the source without the files of images that have come since the run was begun.
    """

    source: Source
    known: Source
    named: dict[str, str | None]
    listing: Listing | None
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> Records:
        """All that were listed."""
        return Records.collect(self.listing.records if self.listing else ())

    @property
    def key(self) -> str:
        """The column of the records by which an image is known again.

        What lies in an archive or a table may be called otherwise beside that of other files.
        """
        return "locator" if "files" in self.source.options else "sample_id"


def prepare_caption(config: CaptionConfig, *, fetch: bool = True) -> PreparedRun:
    """Check the settings, list the images, and compare with what lies in `out`; writes nothing.

    `fetch` weights that are not here and are needed; without them nothing can be run.

    Raises:
        UserError: anything the caller can put right.
    """
    config.refuse_unfitting()
    directory = choose_directory(config)
    if (directory / TEXTS_NAME).is_file():
        raise UsageError(
            f"{directory} holds several texts of each image: give the file of their prompts with "
            "--prompts, or another --out"
        )
    previous = read_previous(directory)
    images = find_images(config, directory, {directory: previous})
    plan = find_plan(config, directory, previous, images)
    # A finished run has no need of weights.
    needed = fetch and needs_engine(config, previous)
    choice = choose_engine(config, recorded=(previous or {}).get("settings", {}), fetch=needed)
    settings = make_settings(config, choice.settings, plan)
    if previous is not None:
        changes, grows = compare_settings(previous, settings, plan)
        if changes and not (config.output.append and grows):
            raise make_refusal(directory, changes, grows=grows)
        refuse_moved(directory, previous, images, plan)
    grown = plan
    if config.output.append and is_planned(directory, previous):
        grown = append_images(plan, images.records, settings, by=images.key, where=directory)
    return make_prepared(
        config, directory, images, choice, settings=settings, plans=(plan, grown), previous=previous
    )


def choose_directory(config: CaptionConfig) -> Path:
    """Where rows go."""
    out = config.output.out
    return out if out is not None else name_out(config.source.images)


def is_planned(directory: Path, previous: Mapping[str, Any] | None) -> bool:
    """Whether a run was begun and has its plan."""
    return previous is not None and (directory / PLAN_NAME).is_file()


def needs_engine(config: CaptionConfig, previous: Mapping[str, Any] | None) -> bool:
    """Whether something may be left to caption."""
    more = config.output.retry_errors or config.output.append
    return more or not (previous or {}).get("complete")


def find_images(
    config: CaptionConfig, directory: Path, runs: Mapping[Path, Mapping[str, Any] | None]
) -> FoundImages:
    """Open the source as the run has it, and list it where that is needed.

    `runs` are run.json of each of its texts by its folder.
    """
    asked = config.source
    known, whole = open_run_source(
        asked.images, asked.options, directory=directory, recorded=find_recorded_source(runs)
    )
    planned = [is_planned(folder, previous) for folder, previous in runs.items()]
    grows = config.output.append and any(planned)
    source, notes = (whole, ()) if grows else (known, _describe_left_out(known, whole))
    # One of several takes the plan as it is.
    looked_at = source.kind in _GROWING and not config.placement.shared
    listing = None
    if not all(planned) or looked_at or grows:
        listing = list_run_source(source, asked.options, captions=asked.captions, exclude=directory)
    named = describe_images(asked.images, source)
    return FoundImages(source, known, named, listing, notes)


def _describe_left_out(known: Source, whole: Source) -> tuple[str, ...]:
    count = len(whole.options.get("files", ())) - len(known.options.get("files", ()))
    if not count:
        return ()
    told = "not part of this run and are ignored: use --append to add the images in them"
    return (f"{count:,} files of --images are {told}",)


def find_plan(
    config: CaptionConfig, directory: Path, previous: dict[str, Any] | None, images: FoundImages
) -> Plan:
    """The plan of the run that was begun, or a new one."""
    if previous is not None and is_planned(directory, previous):
        return read_plan(directory, shard_size=int(previous["shard_size"]))
    # A plan that was lost is made anew; that it is the same one is seen by the settings.
    return _plan_anew(images.records[: config.source.limit], config.output.shard_size, previous)


def make_settings(config: CaptionConfig, engine: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """What the fingerprint is of; `engine` is what the rows depend on beside the images."""
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
    """UserError where the images are others than those of the run."""
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
    """All of it; `plans` are the one that there was and the one that is."""
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
        # The run stays the one that was begun.
        settings=settings if previous is None else keep_own(settings, previous["settings"]),
        previous=previous,
        passed_over=listing.passed_over if listing else {},
        notes=(
            *(listing.notes if listing else ()),
            *images.notes,
            *_describe_growth(before, plan),
        ),
        new_images=0 if config.source.limit else len(new),
        shared=config.placement.shared,
        text=text,
    )


def read_previous(directory: Path) -> dict[str, Any] | None:
    """run.json of an earlier run in this folder, or None if there was none.

    Raises:
        UserError: the folder cannot be the output of a run.
    """
    if not is_decoded(str(directory)):
        raise UserError(f"--out {show_name(str(directory))} is not UTF-8, and Arrow cannot open it")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--out {directory} is a file: use a folder")
    if not (directory / RUN_NAME).is_file():
        if list_shards(directory) or any(directory.glob(f"{JOURNAL_FOLDER}/*.jsonl")):
            raise UserError(
                f"{directory} holds Parquet files of something else (there is no {RUN_NAME}): "
                "use another --out; if a run lost it, `d2s verify --repair` rewrites it"
            )
        return None
    previous = read_run(directory)
    if "settings" not in previous or "shard_size" not in previous:
        raise UserError(f"{directory / RUN_NAME} is not of a captioning run: use another --out")
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
            "the others back, or use another --out"
        ) from error


def _describe_growth(before: Plan, after: Plan) -> list[str]:
    count, shards = len(after.records) - len(before.records), after.shards - before.shards
    return [f"{count:,} new images are added in {shards:,} new shards"] if count else []


def refuse_other_fingerprint(prepared: PreparedRun) -> None:
    """UserError if the run that lies in the folder by now is not the one that was prepared."""
    there = read_run(prepared.directory)
    changes, grows = compare_settings(there, prepared.settings, prepared.plan)
    if changes:
        raise make_refusal(prepared.directory, changes, grows=grows)


def compare_settings(
    previous: Mapping[str, Any], settings: dict[str, Any], plan: Plan
) -> tuple[list[str], bool]:
    """What differs from the run that was begun, in lines, and whether `--append` allows it."""
    recorded = previous["settings"]
    newest = plan.additions[-1].settings if plan.additions else recorded
    if make_fingerprint(keep_own(settings, recorded))[:16] == previous.get("run_id"):
        # Of a run that was repaired the settings may lack a folder's place.
        recorded = settings
    recorded = keep_own(recorded, newest)
    return list_differences(recorded, settings), is_growth(recorded, settings)


def make_refusal(directory: Path, changes: Sequence[str], *, grows: bool = False) -> UserError:
    """The folder has a run that differs in `changes`."""
    way = "--append to add to it, " if grows else ""
    return UserError(
        f"{directory} contains a run with other settings ({'; '.join(changes)}): "
        f"use another --out, {way}or the settings of that run"
    )


def _count_workers(source: Source) -> int:
    """One core is the engine's; eight decode more than any engine captions.

    What is fetched from elsewhere is waited for more than it is worked on.
    """
    if source.kind == "urls":
        return _FETCHERS
    return max(1, min(8, count_cores() - 1))
