"""A run that grows: what may differ from the run that was begun, and which images are added."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioner.store.plan import Plan
from data.errors import UserError
from data.sources.records import Records

# Of the settings: what every addition has of its own.
_OWN = ("limit", "captions")


def keep_own(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with what additions have of their own as `own` has it."""
    return {**settings, **{name: own[name] for name in _OWN if name in own}}


def is_growth(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether `--append` allows the difference: the limit is not lowered, nothing else is other."""
    before, now = recorded.get("limit"), asked["limit"]
    raised = now is None or (before is not None and now >= before)
    return raised and keep_own(recorded, asked) == asked


def append_images(plan: Plan, found: Records, settings: Mapping[str, Any], *, where: Path) -> Plan:
    """The plan with the images that are new among those found, up to the limit; itself if none is.

    Raises:
        UserError: images of the plan are missing among those found, or in another order.
    """
    for part in range(len(plan.bounds) - 1):
        _refuse_change(plan.select_part(part), found, where)
    new, limit = found.select(plan.records, among=False), settings["limit"]
    if limit is not None:
        new = new[: max(0, limit - len(plan.records))]
    return plan.append(new, keep_own({}, settings)) if new else plan


def _refuse_change(planned: Records, found: Records, where: Path) -> None:
    there = found.select(planned, among=True)
    if there.list_ids() == planned.list_ids():
        return
    missing = planned.select(there, among=False)
    what = "its images come in another order now"
    if missing:
        what = f"{len(missing):,} of its images are gone ({missing[0].file_name} for example)"
    raise UserError(
        f"the run in {where} cannot grow: {what}. --append adds new images to all of the old ones "
        "in their old order: bring those back, or leave --append out"
    )
