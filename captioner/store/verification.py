"""Verifying a captioning run on disk: every planned image once, nothing changed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captioner.store.plan import Plan, list_additions, read_plan
from captioner.store.row_form import RowForm
from data.dense.receipts import read_receipts
from data.dense.run import PLAN_NAME, read_run
from data.dense.shards import list_shards
from data.errors import UserError, first_line
from data.files.hashes import hash_file
from data.images import Status

# Columns that every ok row has; imported texts have no width, since images are not read.
_NEVER_NULL = ("caption", "caption_words", "flags", "repetition")


@dataclass(frozen=True)
class Verification:
    """The result. `problems` are lines for the user, empty if there are none."""

    directory: Path
    planned: int
    shards: int
    rows: int
    statuses: dict[str, int]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_run(directory: Path) -> Verification:
    """Read every page of every shard and compare it with the plan, the receipts and run.json.

    Raises:
        UserError: there is no run in the folder.
    """
    run = read_run(directory)
    form = RowForm.of(run.get("settings", {}))
    if not (directory / PLAN_NAME).is_file():
        raise UserError(
            f"{directory} has no {PLAN_NAME}: there is nothing to compare its rows with"
        )
    plan = read_plan(directory, shard_size=int(run["shard_size"]))
    statuses: Counter[str] = Counter()
    problems = list(_find_strangers(directory, plan))
    if not run.get("complete"):
        problems.append("the run is not complete: run the same command again to finish it")
    added = [addition.settings for addition in list_additions(run.get("additions", ()))]
    hashes = [plan.hash(part) for part in range(len(plan.bounds) - 1)]
    if [part.get("plan", hashes[0]) for part in (run.get("settings", {}), *added)] != hashes:
        problems.append(f"{PLAN_NAME} does not belong to this run.json")
    receipts = read_receipts(directory)
    for index in range(plan.shards):
        path = directory / plan.name_shard(index)
        receipt = receipts.get(index)
        if not path.is_file():
            problems.append(f"{path.name} is missing")
            continue
        if receipt is None:
            problems.append(f"{path.name} has no receipt")
        elif hash_file(path) != receipt.sha256:
            problems.append(f"{path.name} was changed: its SHA-256 is not that of its receipt")
        problems += [
            f"{path.name}: {problem}"
            for problem in _check_shard(path, plan.list_ids(index), form, run["run_id"], statuses)
        ]
    recorded = run.get("statuses", {})
    if run.get("complete") and recorded != dict(statuses):
        problems.append(f"run.json counts {recorded}, the shards have {dict(statuses)}")
    return Verification(
        directory=directory,
        planned=len(plan.records) * form.samples,
        shards=plan.shards,
        rows=statuses.total(),
        statuses=dict(sorted(statuses.items())),
        problems=tuple(problems),
    )


def _check_shard(
    path: Path, ids: Sequence[str], form: RowForm, run_id: str, statuses: Counter[str]
) -> Iterator[str]:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        yield f"it cannot be read ({first_line(error)})"
        return
    if not table.schema.equals(form.schema):
        yield "its columns differ from those of this version"
        return
    statuses.update(table.column("status").to_pylist())
    found = table.column("sample_id").to_pylist()
    planned = form.repeat(ids)
    if found != planned:
        same = [there == wanted for there, wanted in zip(found, planned, strict=False)]
        at = same.index(False) if False in same else len(same)
        yield (
            f"its {len(found):,} rows differ from the {len(planned):,} rows of the plan, first in "
            f"row {at}"
        )
    if set(table.column("run_id").to_pylist()) - {run_id}:
        yield "it contains rows of another run"
    yield from _check_nulls(table)


def _check_nulls(table: pa.Table) -> Iterator[str]:
    ok = pc.equal(table.column("status"), str(Status.OK))
    good, bad = table.filter(ok), table.filter(pc.invert(ok))
    for name in _NEVER_NULL:
        if count := good.column(name).null_count:
            yield f"{count:,} rows with status ok have no {name}"
    if count := len(bad) - bad.column("caption").null_count:
        yield f"{count:,} error rows have a caption"
    if count := bad.column("error").null_count:
        yield f"{count:,} error rows have no error message"


def _find_strangers(directory: Path, plan: Plan) -> Iterator[str]:
    """Shards that are not part of this run: readers of the whole folder would include them."""
    known = {plan.name_shard(index) for index in range(plan.shards)}
    for path in list_shards(directory):
        if path.name not in known:
            yield f"{path.name} is not a shard of this run"
