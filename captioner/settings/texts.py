"""Several texts per image: one run for each in its own folder, with the same plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from captioner.settings.columns import read_columns
from captioner.settings.config import CaptionConfig
from captioner.settings.engine import EngineChoice, choose_engine, describe_asked
from captioner.settings.found import FoundImages, find_images, is_planned
from captioner.settings.growth import append_images, keep_own
from captioner.settings.prepare import (
    PreparedRun,
    choose_directory,
    compare_settings,
    find_plan,
    make_prepared,
    make_refusal,
    make_settings,
    needs_engine,
    read_previous,
    refuse_moved,
)
from captioner.settings.prompts import (
    REPLACED,
    TEXTS_NAME,
    NamedText,
    order_texts,
    read_prompts,
)
from captioner.store.plan import Plan
from captioner.store.run_record import make_fingerprint
from data.dense.run import RUN_NAME
from data.errors import UsageError, UserError
from data.files.atomic import replace_whole
from data.settings.differences import list_differences
from data.settings.yaml_files import read_yaml

# Settings shared by all texts: changing one makes all of them different runs.
_OF_ALL = ("shard_size", "limit", "captions", "plan")
# The settings that determine the request.
_OF_ONE = ("prompt", "sampling", "system", "texts")
# About the number of tokens to reserve for a column in a prompt.
_COLUMN_TOKENS = 256


@dataclass(frozen=True)
class PreparedTexts:
    """Runs that are ready to start, in passes by model, each after the texts it reads.

    `names` are in the order of the file; `changed` are texts whose settings have changed, with
    lines that describe the changes; `unasked` are existing texts that are no longer in the file.
    """

    config: CaptionConfig
    directory: Path
    names: tuple[str, ...]
    passes: tuple[tuple[PreparedRun, ...], ...]
    changed: Mapping[str, tuple[str, ...]]
    unasked: tuple[str, ...] = ()

    @property
    def runs(self) -> dict[str, PreparedRun]:
        """The runs by text name."""
        each = {run.text.name: run for one in self.passes for run in one if run.text}
        return {name: each[name] for name in self.names}

    @property
    def shared(self) -> bool:
        """Whether several processes write to the folder."""
        return any(run.shared for one in self.passes for run in one)

    def replace_each(self, **changes: Any) -> PreparedTexts:
        """A copy with a change in every run."""
        passes = (tuple(replace(run, **changes) for run in one) for one in self.passes)
        return replace(self, passes=tuple(passes))


@dataclass(frozen=True)
class _Folder:
    """The contents of the texts' folders."""

    directory: Path
    previous: Mapping[str, dict[str, Any] | None]

    @property
    def runs(self) -> dict[Path, dict[str, Any] | None]:
        """run.json of each text by its folder."""
        return {self.directory / name: run for name, run in self.previous.items()}

    def find_oldest(self) -> dict[str, Any] | None:
        """run.json of an existing text: its images and limits apply to all."""
        return next(filter(None, self.previous.values()), None)


def prepare_texts(
    config: CaptionConfig, *, fetch: bool = True, listed: bool = False
) -> PreparedTexts:
    """`prepare_caption` for the texts of `--prompts`.

    Raises:
        UserError: anything that the caller can fix, including changed texts, unless they are to be
            generated again.
    """
    config.refuse_unfitting()
    texts, directory = read_prompts(config), choose_directory(config)
    names = tuple(text.name for text in texts)
    if (directory / RUN_NAME).is_file():
        raise UsageError(
            f"{directory} contains a run with one text per image: use another --out, or omit "
            "--prompts"
        )
    folder = _Folder(directory, {name: read_previous(directory / name) for name in names})
    oldest = folder.find_oldest()
    images = find_images(config, directory, folder.runs, listed=listed)
    plan = read_columns(_find_longest_plan(config, folder, images), images.known, texts)
    choices = _choose_engines(texts, folder, plan, fetch=fetch)
    settings, changed = _settle_settings(texts, folder, choices, plan)
    _refuse_changes(config, directory, changed)
    grown = plan
    if oldest is not None:
        refuse_moved(directory, oldest, images, plan)
        if images.grows:
            # With the current limit, not that of the existing run.
            asked = make_settings(config, settings[names[0]], plan)
            grown = append_images(plan, images.records, asked, by=images.key, where=directory)
            grown = read_columns(grown, images.source, texts)
    passes = tuple(
        tuple(
            make_prepared(
                text.config,
                directory / text.name,
                images,
                choices[text.engine],
                settings=settings[text.name],
                plans=(plan, grown),
                previous=folder.previous[text.name],
                text=text,
            )
            for text in one
        )
        for one in order_texts(texts)
    )
    unasked = tuple(sorted(set(_list_recorded(directory)) - {*names}))
    return PreparedTexts(config, directory, names, passes, changed, unasked)


def write_texts(prepared: PreparedTexts) -> None:
    """Write texts.yaml: the names in order, and the settings of each."""
    about = [
        {
            "name": name,
            "model": run.settings["model"],
            "prompt": run.settings["prompt"],
            **run.settings["text"],
            "reads": list(run.settings["text"]["reads"]),
        }
        for name, run in prepared.runs.items()
    ]
    path = prepared.directory / TEXTS_NAME
    content = yaml.safe_dump({"texts": about}, sort_keys=False, allow_unicode=True).encode()
    if not path.is_file() or path.read_bytes() != content:
        with replace_whole(path) as temporary:
            temporary.write_bytes(content)


def prepare_again(prepared: PreparedTexts) -> PreparedTexts:
    """After `put_aside`: the same images and settings, with the runs that are in the folders now.

    Raises:
        UserError: a model that is needed now is not available.
    """
    first, directory = prepared.runs, prepared.directory
    texts = [run.text for run in first.values() if run.text]
    plan = prepared.passes[0][0].plan
    asked = _Folder(directory, {name: run.previous for name, run in first.items()})
    now = _Folder(directory, {name: read_previous(directory / name) for name in first})
    # A text that was complete needed no engine, whose settings are exact.
    choices = _choose_engines(texts, now, plan, fetch=True)
    settings, _ = _settle_settings(texts, asked, choices, plan)

    def renew(run: PreparedRun) -> PreparedRun:
        assert run.text is not None
        name, previous = run.text.name, now.previous[run.text.name]
        own = settings[name] if previous is None else keep_own(settings[name], previous["settings"])
        return replace(run, choice=choices[run.text.engine], settings=own, previous=previous)

    passes = tuple(tuple(map(renew, one)) for one in prepared.passes)
    return replace(prepared, passes=passes, changed={})


def _list_recorded(directory: Path) -> list[str]:
    """The names in texts.yaml; none if it cannot be read, since it will be rewritten."""
    try:
        return [str(text["name"]) for text in read_yaml(directory / TEXTS_NAME)["texts"]]
    except (UserError, TypeError, KeyError):
        return []


def _find_longest_plan(config: CaptionConfig, folder: _Folder, images: FoundImages) -> Plan:
    """The common plan; a text that was killed while growing has fewer additions than the others.

    Raises:
        UserError: two plans have different images.
    """
    plans = {
        name: find_plan(config, folder.directory / name, previous, images)
        for name, previous in folder.previous.items()
        if is_planned(folder.directory / name, previous)
    }
    if not plans:
        return find_plan(config, folder.directory, folder.find_oldest(), images)
    longest = max(plans.values(), key=lambda plan: len(plan.additions))
    for name, plan in plans.items():
        same = longest.additions[: len(plan.additions)] == plan.additions
        if not same or plan.hash() != longest.hash():
            raise UserError(
                f"{folder.directory / name} has a plan with other images than the texts beside it: "
                "use another --out, or move it out of that folder"
            )
    return longest


def _choose_engines(
    texts: Sequence[NamedText], folder: _Folder, plan: Plan, *, fetch: bool
) -> dict[tuple[str, str | None], EngineChoice]:
    """One engine per model, with room for its longest prompt."""
    choices = {}
    for engine in dict.fromkeys(text.engine for text in texts):
        own = [text for text in texts if text.engine == engine]
        begun = [folder.previous[text.name] for text in own]
        needed = fetch and any(needs_engine(own[0].config, previous, plan) for previous in begun)
        recorded: dict[str, Any] = next((run["settings"] for run in begun if run), {})
        choices[engine] = choose_engine(_size(own, texts), recorded=recorded, fetch=needed)
    return choices


def _size(own: Sequence[NamedText], texts: Sequence[NamedText]) -> CaptionConfig:
    """The settings of an engine with room for any of its texts."""
    longest = {text.name: text.config.text.max_tokens for text in texts}
    tokens = [
        longest[text.name]
        + sum(longest[name] for name in text.reads)
        + len(text.template.columns) * _COLUMN_TOKENS
        for text in own
    ]
    first = max(own, key=lambda text: len(text.config.text.prompt)).config
    return replace(first, text=replace(first.text, max_tokens=max(tokens)))


def _settle_settings(
    texts: Sequence[NamedText],
    folder: _Folder,
    choices: Mapping[tuple[str, str | None], EngineChoice],
    plan: Plan,
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, ...]]]:
    """The settings of each text, and the differences of those that have changed.

    Raises:
        UserError: a shared setting differs.
    """
    settings: dict[str, dict[str, Any]] = {}
    changed: dict[str, tuple[str, ...]] = {}
    oldest = folder.find_oldest()
    for text in (text for one in order_texts(texts) for text in one):
        of_engine = choices[text.engine].settings
        asked = describe_asked(text.config.text)
        prints = {name: make_fingerprint(settings[name]) for name in text.reads}
        now = {name: v for name, v in of_engine.items() if name not in _OF_ONE} | asked
        now = make_settings(text.config, now | {"text": text.describe(prints)}, plan)
        previous = folder.previous[text.name]
        before = previous or oldest
        if before is not None:
            _refuse_other_whole(folder.directory / text.name, before, now, text, plan)
            now = keep_own(now, before["settings"])
        settings[text.name] = now
        if previous is not None and make_fingerprint(now)[:16] != previous["run_id"]:
            there, here = (
                {name: v for name, v in each.items() if name not in _OF_ALL}
                for each in (previous["settings"], now)
            )
            changed[text.name] = tuple(list_differences(there, here))
    return settings, changed


def _refuse_other_whole(
    where: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    text: NamedText,
    plan: Plan,
) -> None:
    common = {**before["settings"], **{name: now[name] for name in _OF_ALL}}
    changes, grows = compare_settings(before, common, plan)
    if changes and not (text.config.output.append and grows):
        raise make_refusal(where, changes, grows=grows)


def _refuse_changes(
    config: CaptionConfig, directory: Path, changed: Mapping[str, tuple[str, ...]]
) -> None:
    """UserError for texts whose settings have changed, unless they are to be redone."""
    if config.output.redo and config.placement.world_size > 1:
        raise UsageError("--redo works with one job: start the others once it is running")
    if not changed or config.output.redo:
        return
    names, (_, lines) = ", ".join(changed), next(iter(changed.items()))
    raise UserError(
        f"these texts in {directory} were generated with other settings, or read one that was: "
        f"{names} ({'; '.join(lines)}): use --redo to generate them again and keep the old ones in "
        f"{REPLACED}/, or another --out"
    )
