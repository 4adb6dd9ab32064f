"""`d2s ablate`: the paper's tables, and ideas beside them, on any data set over several seeds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from data.errors import UserError
from pipelines.console.command_line import repeat_arguments, say
from pipelines.console.options import complete_from, complete_recipes
from pipelines.console.outputs import OUTPUT_FOLDER

FOLDER = click.Path(file_okay=False, path_type=Path)


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
              help="stages, distance, placement, depth, ideas, all, or a YAML file. Repeatable: "
                   "tables share the runs that they have in common.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True,
              help="So many: 0, 1, ...; of weights, order and augmentation.")
@click.option("--scenes", is_flag=True,
              help="On a generated world, captioned by llava-scenes through vLLM as in the demo.")
@click.option("--images", type=FOLDER, help="Images.  [default: as for `d2s train`]")
@click.option("--captions", type=click.Path(path_type=Path),
              help="Sparse captions and splits.  [default: as for `d2s train`]")
@click.option("--dense", type=FOLDER, help="Dense text.  [default: as for `d2s train`]")
@click.option("--recipe", shell_complete=complete_recipes,
              help="What all rows start from: a recipe or a YAML file.  "
                   "[default: scenes with --scenes, else paper]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a setting of the recipe in all runs. Repeatable.")
@click.option("--steps", type=(click.IntRange(min=1), click.IntRange(min=1)), default=None,
              metavar="N N", help="Steps of stage 1 and of stage 2.  [default: the recipe's]")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True,
              help="Where the figures are measured; ideas are decided on val.")
@click.option("--workers", type=click.IntRange(min=1),
              help="Runs side by side.  [default: one a GPU, else one a core]")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images of each split.")
@click.option("--out", type=OUTPUT_FOLDER, default=Path("artifacts/ablate"), show_default=True,
              help="Folder of all runs; tables and seeds may be added to it later.")
@click.option("--docs", type=OUTPUT_FOLDER,
              help="Also write the tables, Markdown and JSON, to a folder.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, command by command.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
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
    workers: int | None,
    limit: int | None,
    out: Path,
    docs: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train every row of a table over several seeds and print the table, the paper's beside it.

    Rows of equal settings are one run, and stage 1 is trained once a seed. The same command again
    does what is missing. Rows without stage 1 take the steps of both stages.

    \b
    Examples:
      d2s ablate --table stages --seeds 3 --dry-run
      d2s ablate --scenes --table distance --steps 400 400
    """
    from pipelines.experiments import ablation as ablations
    from pipelines.experiments.ablation_table import read_table, shipped_tables
    from pipelines.experiments.document import write_document, write_documents
    from pipelines.workflow.machine import choose_workers, count_gpus, share_threads
    from vse.recipes.files import locate_recipe
    from vse.samples.discovery import find_input

    if scenes and (images or captions or dense):
        raise click.UsageError("--scenes makes its own images, captions and dense text")
    named = [n for name in names for n in (shipped_tables() if name == "all" else [name])]
    inputs = None
    if not scenes:
        inputs = find_input(images=images, captions=captions, dense=dense, wants_dense=True)
    gpus = count_gpus()
    workers = workers or choose_workers(gpus)
    asked = ablations.Ablation(
        out=out,
        tables=tuple(read_table(name) for name in dict.fromkeys(named)),
        seeds=tuple(range(seeds)),
        recipe=locate_recipe(recipe or ("scenes" if scenes else "paper")),
        inputs=inputs,
        overrides=overrides,
        steps=steps,
        split=split,
        limit=limit,
        threads=share_threads(workers),
    )
    if dry_run:
        lines = ablations.describe_ablation(asked, asked.jobs())
        click.echo("\n".join(lines), err=as_json)
        if as_json:
            click.echo(json.dumps({"dry_run": True, "runs": len(asked.jobs())}))
        return
    typed = repeat_arguments(leave_out=("out", "docs", "workers", "as_json"))
    command = shlex.join(["d2s", "ablate", *typed])
    found, failed = ablations.run_ablation(asked, workers=workers, gpus=gpus, command=command)
    write_documents(found, out)
    if docs is not None:
        for path in write_documents(found, docs):
            say(f"written   {path}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(write_document(table, found) for table in found["tables"]))
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} runs have failed, {name} for example ({why}): "
            "the same command tries them again"
        )
