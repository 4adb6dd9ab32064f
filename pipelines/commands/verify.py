"""`d2s verify`: checks that a captioning run is complete and unchanged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.console.command_line import print_result, say
from pipelines.console.options import shared

if TYPE_CHECKING:
    from captioner.store.verification import Verification

_MOST_SHOWN = 20


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--repair", is_flag=True, help=("First rebuild damaged records from the plan and the shards.")
)
@shared("json")
def verify(directory: Path, repair: bool, as_json: bool) -> int:
    """Check the captioning run DIR: every row against the plan, every file against its checksum.

    DIR can also be the folder of several texts of each image (`d2s caption --prompts`).

    Exits with 1 if anything is missing, changed, duplicated or out of order. Error rows are counted
    but are not a problem. --repair rewrites run.json and the receipts if a crash damaged them; rows
    are never changed.

    \b
    Examples:
      d2s verify dense/coco
    """
    from captioner.store.verification import verify_run
    from vse.samples.named_texts import list_runs

    # With several texts per image, one per text.
    directories = list(list_runs(directory).values()) or [directory]
    if repair:
        from captioner.store.repair import repair_run

        for each in directories:
            for line in repair_run(each):
                say(line)
    found = [verify_run(each) for each in directories]
    ok = all(each.ok for each in found)
    lines = [line for each in found for line in _describe(each)]
    about: dict[str, Any] = asdict(found[0])
    if directories != [directory]:
        about = _sum(directory, found)
    print_result(about | {"ok": ok}, lines, as_json=as_json)
    return 0 if ok else 1


def _sum(directory: Path, found: "Sequence[Verification]") -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    for each in found:
        statuses.update(each.statuses)
    return {
        "directory": directory,
        "problems": [f"{each.directory.name}: {line}" for each in found for line in each.problems],
        **{n: sum(getattr(each, n) for each in found) for n in ("planned", "shards", "rows")},
        "statuses": dict(sorted(statuses.items())),
        "texts": {each.directory.name: asdict(each) | {"ok": each.ok} for each in found},
    }


def _describe(found: "Verification") -> list[str]:
    lines = [f"problem: {problem}" for problem in found.problems[:_MOST_SHOWN]]
    if len(found.problems) > _MOST_SHOWN:
        lines.append(f"and {len(found.problems) - _MOST_SHOWN:,} more")
    counts = ", ".join(f"{count:,} {status}" for status, count in found.statuses.items())
    verdict = "verified" if found.ok else "NOT verified"
    lines.append(
        f"{found.directory}: {verdict}, {found.rows:,} of {found.planned:,} planned rows in "
        f"{found.shards:,} {'shard' if found.shards == 1 else 'shards'} ({counts or 'none'})"
    )
    return lines
