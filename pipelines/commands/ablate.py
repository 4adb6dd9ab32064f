"""`d2s ablate`: the paper's tables, and further ideas, on any data set over several seeds."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from data.errors import UserError
from pipelines.console.command_line import print_result, repeat_arguments, say
from pipelines.console.options import COUNT, complete_from, shared
from pipelines.console.outputs import OUTPUT_FOLDER, overwrite_option


def _complete_tables(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Tables of `d2s ablate`, and files."""
    from pipelines.experiments.ablation_table import shipped_tables

    return complete_from([*shipped_tables(), "all"], incomplete)


# fmt: off
@click.command()
@click.option("--table", "names", multiple=True, default=("stages",), show_default=True,
              shell_complete=_complete_tables,
              help="Table to run: stages, distance, placement, depth, ideas, options, all, or a "
                  "YAML file. Can be repeated; runs that tables have in common are shared.")
@click.option("--seeds", type=COUNT, default=3, show_default=True,
              help="Number of random seeds per row.")
@click.option("--scenes", is_flag=True,
              help="Use the generated world, captioned by llava-scenes through vLLM.")
@shared("images", "captions", "dense")
@shared("recipe", help="Recipe that all rows start from: a name or a YAML file.  "
        "[default: scenes with --scenes, else paper]")
@shared("set", "steps")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True,
              help="Split to measure on; ideas are decided on val.")
@click.option("--jobs", type=COUNT,
              help="Number of runs at a time.  [default: one per GPU, else one per core]")
@shared("limit", help="Use only the first N images of each split.")
@shared("out", default=Path("artifacts/ablate"), show_default=True,
        help="Folder of all runs; tables and seeds can be added later.")
@click.option("--docs", type=OUTPUT_FOLDER,
              help="Also write the tables as Markdown and JSON to this folder.")
@overwrite_option
@shared("dry-run", "json")
# fmt: on
def ablate(
    names: tuple[str, ...],
    seeds: int,
    scenes: bool,
    images: Path | None,
    captions: Path | None,
    dense: Path | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    steps: tuple[int, int] | None,
    split: str,
    jobs: int | None,
    limit: int | None,
    out: Path,
    docs: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train every row of a table with several seeds and print it beside the paper's figures.

    Rows with equal settings share one run, and so do rows with equal stage 1. Run the same command
    again to continue. Rows without stage 1 train for the steps of both stages.

    \b
    Examples:
      d2s ablate --table stages --seeds 3 --dry-run
      d2s ablate --scenes --table distance --steps 400 400
    """
    from pipelines.experiments import ablation as ablations
    from pipelines.experiments.ablation_table import read_tables
    from pipelines.experiments.document import refuse_documents, write_document, write_documents
    from pipelines.workflow.machine import choose_workers, count_gpus, share_threads
    from pipelines.workflow.origin import quote_command
    from vse.recipes.files import locate_recipe, locate_towers, read_recipe
    from vse.samples.discovery import find_input

    if scenes and (images or captions or dense):
        raise click.UsageError(
            "--scenes generates images, captions and dense text: omit those options")
    inputs = None
    if not scenes:
        inputs = find_input(images=images, captions=captions, dense=dense, wants_dense=True)
    gpus = count_gpus()
    jobs = jobs or choose_workers(gpus)
    recipe = locate_recipe(recipe or ("scenes" if scenes else "paper"))
    asked = ablations.Ablation(
        out=out,
        tables=read_tables(names),
        seeds=tuple(range(seeds)),
        recipe=recipe,
        inputs=inputs,
        overrides=locate_towers(read_recipe(recipe), overrides),
        steps=steps,
        split=split,
        limit=limit,
        threads=share_threads(jobs),
    )
    if dry_run:
        lines = ablations.describe_ablation(asked, asked.jobs())
        print_result({"dry_run": True, "runs": len(asked.jobs())}, lines, as_json=as_json)
        return
    for folder in (out, docs or out):
        refuse_documents([table.name for table in asked.tables], folder)
    typed = repeat_arguments(leave_out=("out", "docs", "jobs", "as_json", "overwrite"))
    command = quote_command(["d2s", "ablate", *typed])
    found, failed = ablations.run_ablation(asked, workers=jobs, gpus=gpus, command=command)
    write_documents(found, out)
    if docs is not None:
        for path in write_documents(found, docs):
            say(f"written   {path}")
    lines = [
        line for table in found["tables"] for line in write_document(table, found).split("\n")
    ]
    print_result(found, lines, as_json=as_json)
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} runs failed, for example {name} ({why}): "
            "run the same command again to retry them"
        )
