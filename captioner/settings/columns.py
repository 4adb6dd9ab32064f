"""Reading the columns of the images' source that prompts refer to."""

from __future__ import annotations

from collections.abc import Sequence

from captioner.settings.prompts import NamedText
from captioner.settings.template import COLUMNS
from captioner.store.plan import Plan
from data.errors import UsageError, UserError
from data.sources import Source
from data.tables.columns import READABLE, attach_columns, describe_columns

# The URL of an image in a table is only available as a column.
_OF_RECORDS = frozenset(COLUMNS) - {"image_url"}


def list_read(texts: Sequence[NamedText]) -> tuple[str, ...]:
    """The columns of the source that the texts read, except those that every record has."""
    names = (name for text in texts for name in text.template.columns)
    return tuple(dict.fromkeys(name for name in names if name not in _OF_RECORDS))


def read_columns(plan: Plan, source: Source, texts: Sequence[NamedText]) -> Plan:
    """The plan, with the columns that the texts read.

    Raises:
        UsageError: the source has no such column, or it contains something other than texts and
            numbers.
        UserError: the source cannot be read, or no image has a value in these columns.
    """
    _refuse_unfilled(texts, plan)
    names = list_read(texts)
    if not names:
        return plan
    kinds = describe_columns(source)
    readable = {*COLUMNS, *(name for name, kind in kinds.items() if kind in READABLE)}
    for text in texts:
        for name in text.template.columns:
            if name not in readable:
                what = "texts or numbers in the column" if name in kinds else "column"
                raise UsageError(
                    f"{text.whole.text.prompts}: text {text.name!r}: no {what} {name!r} to put "
                    f"into the prompt: there are {', '.join(sorted(readable))} and texts.NAME (a "
                    "brace that is no place is written twice)"
                )
    found = [name for name in names if name in kinds]
    if not found:
        return plan
    return Plan(attach_columns(plan.records, source, found), plan.shard_size, plan.additions)


def _refuse_unfilled(texts: Sequence[NamedText], plan: Plan) -> None:
    """UserError if a prompt reads a standard field that no record has."""
    asked = {name: text.name for text in reversed(texts) for name in text.template.columns}
    empty = asked.keys() & {"captions", "image_id", "split"}
    batches = plan.records.iterate_batches()
    while empty and (batch := next(batches, None)) is not None:
        empty = {name for name in empty if not any(batch.column(name).to_pylist())}
    for name in sorted(empty):
        way = "give some with --captions, or leave" if name == "captions" else "leave"
        raise UserError(
            f"the text {asked[name]!r} of --prompts reads {{{name}}}, and none of the "
            f"{len(plan.records):,} images has any: {way} it out of its prompt"
        )
