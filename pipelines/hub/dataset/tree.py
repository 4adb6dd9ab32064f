"""Building the tree of a data set from a captioning run on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from captioner.score.scores import name_scores, read_about, read_scores, summarise_scores
from captioner.store.row_form import RowForm
from data.dense.receipts import RECEIPTS_NAME, Receipt, read_receipts
from data.dense.run import RUN_NAME, read_run
from data.errors import UserError
from data.files.atomic import to_json
from pipelines.hub.dataset.card import write_body
from pipelines.hub.dataset.checks import check_addresses, check_rows, check_whole
from pipelines.hub.dataset.head import MOST_GROUP_BYTES, read_footers, write_head
from pipelines.hub.dataset.privacy import strip_run
from pipelines.hub.tree import Tree, make_tree
from pipelines.pages.review.rows import RunRows, read_rows

Say = Callable[[str], None]
# Valid names of splits in `datasets`.
_SPLIT = re.compile(r"\w+(?:\.\w+)*", re.ASCII)


def make_dataset_tree(
    directory: Path,
    *,
    repo: str,
    license: str,
    sources: Sequence[str] = (),
    max_errors: float,
    max_flagged: float,
    say: Say = lambda _: None,
) -> Tree:
    """The unchanged shards, run.json and receipts without local paths, and the card.

    The same run and arguments give the same bytes.

    Args:
        sources: further data sets on the Hub with the images, OWNER/NAME.
        max_errors, max_flagged: maximum shares of all rows and of all texts.

    Raises:
        UserError: the run is incomplete, was changed, has too many errors or flags, or passwords in
            URLs.
    """
    run = read_run(directory)
    if not run.get("complete"):
        raise UserError(
            f"{directory} is not finished: run the same `d2s caption` command again, then publish"
        )
    check_whole(directory)
    check_addresses(directory)
    rows = read_rows(directory)
    check_rows(rows, max_errors=max_errors, max_flagged=max_flagged)
    receipts = [receipt for _, receipt in sorted(read_receipts(directory).items())]
    split = _choose_split(rows)
    # A shard keeps the count from its planning, so that uploaded shards are not sent again.
    names = {r.shard: f"data/{split}-{r.shard.removeprefix('train-')}" for r in receipts}
    footers = read_footers([directory / receipt.shard for receipt in receipts])
    if footers.largest_group > MOST_GROUP_BYTES:
        say(
            f"a row group has {footers.largest_group / 2**20:,.0f} MiB: the Hub's viewer may not "
            "show it (smaller shards help: `d2s caption --shard-size`)"
        )
    stripped, form = strip_run(run), RowForm.of(run.get("settings") or {})
    head = write_head(
        run,
        footers,
        title=repo.partition("/")[2],
        license=license,
        split=split,
        paths=names.values(),
        # Choices and JSON have no flags, so their language is unknown.
        english=form.answer is None and _is_english(rows),
        sources=list(dict.fromkeys([*_find_sources(run), *sources])),
    )
    body = write_body(
        stripped,
        rows,
        footers,
        repo=repo,
        split=split,
        form=form,
        scores=_read_scores(directory, say),
    )
    return make_tree(
        {
            **{names[receipt.shard]: directory / receipt.shard for receipt in receipts},
            RUN_NAME: to_json(stripped),
            RECEIPTS_NAME: _write_receipts(receipts, names),
        },
        readme=f"---\n{head}\n---\n\n{body}",
        hashes={names[receipt.shard]: receipt.sha256 for receipt in receipts},
    )


def _choose_split(rows: RunRows) -> str:
    """The source's split if all rows have the same, else `train`; see also the column `split`."""
    found = set(rows.table.column("split").to_pylist())
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and _SPLIT.fullmatch(only) else "train"


def _find_sources(run: dict[str, Any]) -> list[str]:
    """The data set on the Hub from which the images were read."""
    source = run.get("source") or {}
    name = (source.get("options") or {}).get("name") if source.get("kind") == "dataset" else None
    return [name] if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else []


def _is_english(rows: RunRows) -> bool:
    foreign = sum("non_english" in names for names in rows.flags)
    return 2 * foreign < sum(status == "ok" for status in rows.statuses)


def _read_scores(directory: Path, say: Say) -> dict[str, Any] | None:
    """The scores, if they belong to exactly these shards."""
    table = read_scores(directory / name_scores(None))
    if table is None:
        return None
    here = {receipt.shard: receipt.sha256 for receipt in read_receipts(directory).values()}
    if read_about(table).get("shards") != here:
        say("the scores beside the shards belong to other shards: the card omits them")
        return None
    return summarise_scores(table)


def _write_receipts(receipts: Sequence[Receipt], names: dict[str, str]) -> bytes:
    renamed = (asdict(replace(r, shard=names[r.shard])) for r in receipts)
    return b"".join(json.dumps(receipt).encode() + b"\n" for receipt in renamed)
