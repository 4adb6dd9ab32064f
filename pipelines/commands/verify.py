"""`d2s verify`: is a captioning run complete, and what its receipts say?"""

import json
from dataclasses import asdict
from pathlib import Path

import click

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
    if as_json:
        click.echo(json.dumps(asdict(found) | {"ok": found.ok}, default=str))
        return 0 if found.ok else 1
    for problem in found.problems[:_MOST_SHOWN]:
        click.echo(f"problem: {problem}")
    if len(found.problems) > _MOST_SHOWN:
        click.echo(f"and {len(found.problems) - _MOST_SHOWN:,} more")
    counts = ", ".join(f"{count:,} {status}" for status, count in found.statuses.items())
    verdict = "verified" if found.ok else "NOT verified"
    click.echo(
        f"{directory}: {verdict}, {found.rows:,} of {found.planned:,} planned rows in "
        f"{found.shards:,} shards ({counts or 'none'})"
    )
    return 0 if found.ok else 1
