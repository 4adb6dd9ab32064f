"""`d2s verify`: is a captioning run complete, and what its receipts say?"""

import json
from dataclasses import asdict
from pathlib import Path

import click

_MOST_SHOWN = 20


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="First rebuild lost records from plan and shards.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify(directory: Path, repair: bool, as_json: bool) -> int:
    """Compare every row of a captioning run with its plan, and every file with its receipt.

    Exits with 1 if anything is missing, changed, doubled or out of order. Error rows are counted
    and are no problem: each stands for an image that could not be captioned. --repair writes
    run.json and the receipts anew where a crash left them empty or half; no row is changed.

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
