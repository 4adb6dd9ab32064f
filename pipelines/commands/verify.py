"""`d2s verify`: is a captioning run complete, and what its receipts say?"""

from dataclasses import asdict
from pathlib import Path

import click

from pipelines.console.command_line import print_result
from pipelines.console.options import shared

_MOST_SHOWN = 20


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="First rebuild damaged records from plan and shards.")
@shared("json")
def verify(directory: Path, repair: bool, as_json: bool) -> int:
    """Check the captioning run DIR: every row against the plan, every file against its checksum.

    Exits with 1 if anything is missing, changed, duplicated or out of order. Error rows are counted
    but are not a problem. --repair rewrites run.json and the receipts if a crash damaged them; rows
    are never changed.

    \b
    Examples:
      d2s verify dense/coco
    """
    from captioner.store.verification import verify_run

    if repair:
        from captioner.store.repair import repair_run

        repair_run(directory)
    found = verify_run(directory)
    lines = [f"problem: {problem}" for problem in found.problems[:_MOST_SHOWN]]
    if len(found.problems) > _MOST_SHOWN:
        lines.append(f"and {len(found.problems) - _MOST_SHOWN:,} more")
    counts = ", ".join(f"{count:,} {status}" for status, count in found.statuses.items())
    verdict = "verified" if found.ok else "NOT verified"
    lines.append(
        f"{directory}: {verdict}, {found.rows:,} of {found.planned:,} planned rows in "
        f"{found.shards:,} shards ({counts or 'none'})"
    )
    print_result(asdict(found) | {"ok": found.ok}, lines, as_json=as_json)
    return 0 if found.ok else 1
