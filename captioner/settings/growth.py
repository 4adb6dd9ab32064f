"""Growing runs: which settings may differ, and which images are added."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from captioner.store.plan import Plan
from data.errors import UserError
from data.sources import Source
from data.sources.records import Records

# Settings that each addition has separately.
_OWN = ("limit", "captions")


def keep_own(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the values that belong to additions taken from `own`."""
    return {**settings, **{name: own[name] for name in _OWN if name in own}}


def is_growth(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether `--append` allows the difference: the limit is not lowered, nothing else differs."""
    before, now = recorded.get("limit"), asked["limit"]
    raised = now is None or (before is not None and now >= before)
    return raised and keep_own(recorded, asked) == asked


def append_images(
    plan: Plan, found: Records, settings: Mapping[str, Any], *, by: str, where: Path
) -> Plan:
    """The plan with the new images that were found, up to the limit; unchanged if there are none.

    `by` is the column of the records that identifies images.

    Raises:
        UserError: images of the plan are missing or in another order, or a new one has the name of
            one in the plan.
    """
    for part in range(len(plan.bounds) - 1):
        _refuse_change(plan.select_part(part), found, by, where)
    new, limit = found.select(plan.records, among=False, by=by), settings["limit"]
    if limit is not None:
        new = new[: max(0, limit - len(plan.records))]
    if alike := new.select(plan.records, among=True):
        raise UserError(
            f"the run in {where} cannot grow: {len(alike):,} of the new images have the name of "
            f"one that it has ({alike[0].file_name}, for example). Rename the new files"
        )
    return plan.append(new, keep_own({}, settings)) if new else plan


def arrange_files(source: Source, before: Source) -> tuple[Source, Source]:
    """A source of archives or tables with only the files of `before`, and one with all files.

    Images are located by the number of their file, so the files of `before` come first, in the same
    order.

    Raises:
        ValueError: one of them has changed or is missing; the text says which.
    """
    here: dict[str, list[str]] = defaultdict(list)
    for path, stamp in _list_files(source):
        here[stamp].append(path)
    kept, lost = [], []
    for path, stamp in _list_files(before):
        same = here[stamp]
        if same:
            # If there are two copies of a file, the one with the same path is used.
            kept.append((same.pop(same.index(path) if path in same else 0), stamp))
        else:
            lost.append(os.path.basename(path))
    if lost:
        names = {os.path.basename(path) for path in source.options["files"]}
        what = "has another size, beginning or end" if lost[0] in names else "is missing"
        more = f", and so on for {len(lost) - 1:,} more of its files" if len(lost) > 1 else ""
        raise ValueError(f"{lost[0]} {what}{more}")
    new = [(path, stamp) for path, stamp in _list_files(source) if path in here[stamp]]
    return _replace_files(source, kept), _replace_files(source, [*kept, *new])


def _list_files(source: Source) -> Iterable[tuple[str, str]]:
    return zip(source.options["files"], source.options["stamps"], strict=True)


def _replace_files(source: Source, files: list[tuple[str, str]]) -> Source:
    paths, stamps = zip(*files, strict=True)
    options = {**source.options, "files": [*paths], "stamps": [*stamps]}
    # Relative paths in cells refer to the first file's folder.
    return replace(source, root=os.path.dirname(paths[0]), options=options)


def _refuse_change(planned: Records, found: Records, by: str, where: Path) -> None:
    there = found.select(planned, among=True, by=by)
    if there.list_column(by) == planned.list_column(by):
        return
    missing = planned.select(there, among=False, by=by)
    what = "its images are now in another order"
    if missing:
        what = f"{len(missing):,} of its images are missing (for example {missing[0].file_name})"
    raise UserError(
        f"cannot add to the run in {where}: {what}. --append needs all of the old images in their "
        "old order: restore them, or omit --append"
    )
