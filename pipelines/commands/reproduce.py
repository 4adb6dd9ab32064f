"""`d2s reproduce`: a published row by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipelines.console.command_line import say
from pipelines.console.options import complete_recipes
from pipelines.console.outputs import OUTPUT_FOLDER

FOLDER = click.Path(file_okay=False, path_type=Path)


# fmt: off
@click.command()
@click.argument("recipe", shell_complete=complete_recipes)
@click.option("--images", type=FOLDER, help="Images.  [default: as for `d2s train`]")
@click.option("--captions", type=click.Path(path_type=Path),
              help="Sparse captions and splits.  [default: as for `d2s train`]")
@click.option("--dense", type=FOLDER, help="Dense text.  [default: as for `d2s train`]")
@click.option("--out", type=OUTPUT_FOLDER, help="Folder of both stages.  [default: runs/RECIPE]")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True,
              help="Train on so many GPUs of this machine.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a setting in both stages. Repeatable.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order and augmentation.")
@click.option("--steps", type=(click.IntRange(min=1), click.IntRange(min=1)), default=None,
              metavar="N N", help="Steps of stage 1 and of stage 2, to try it out.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images of each split.")
@click.option("--dry-run", is_flag=True,
              help="Check files, memory, disk and steps of both stages; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
# fmt: on
def reproduce(
    recipe: str,
    images: Path | None,
    captions: Path | None,
    dense: Path | None,
    out: Path | None,
    gpus: int,
    overrides: tuple[str, ...],
    seed: int | None,
    steps: tuple[int, int] | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Stage 1, stage 2 and evaluation of RECIPE, the figures beside the published ones.

    RECIPE is one of those that `d2s recipe` lists, or a YAML file. The same command again goes on
    where it stopped.

    \b
    Examples:
      d2s reproduce f30k-vit-384 --images flickr30k/ --dry-run
    """
    from pipelines.console.forecast import show_time
    from pipelines.experiments.reproduction import Reproduction, format_comparison, run_reproduction
    from vse.recipes.files import locate_recipe, read_recipe
    from vse.samples.discovery import find_input

    raw = read_recipe(recipe)
    asked = Reproduction(
        recipe=locate_recipe(recipe),
        out=out if out is not None else Path("runs") / Path(recipe).stem,
        inputs=find_input(images=images, captions=captions, dense=dense, wants_dense=True),
        gpus=gpus,
        seed=seed,
        overrides=overrides,
        steps=steps,
        limit=limit,
    )
    if dry_run:
        outcome = dry_run_reproduction(asked, raw)
        if as_json:
            click.echo(json.dumps(outcome, indent=2))
        return
    found = run_reproduction(asked, raw)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['recipe']}, {found['px']} px, {show_time(found['seconds'])} in all")
    click.echo("\n".join(format_comparison(found["rows"])))


def dry_run_reproduction(asked: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """Say what both stages would take; UserError if one would fail."""
    from pipelines.console.forecast import describe_forecast, refuse_problems
    from vse.recipes.files import resolve
    from vse.training.forecast.run import forecast_run
    from vse.training.spec import join_data

    found = {}
    for stage, steps in zip(("1", "2"), asked.steps or (None, None), strict=True):
        recipe = resolve(raw, stage=stage, overrides=asked.overrides, optim__steps=steps)
        _, corpus = join_data(recipe, asked.inputs, limit=asked.limit)
        out = asked.out / f"stage{stage}"
        found[stage] = forecast_run(
            recipe, stage=stage, corpus=corpus, out=out, processes=asked.gpus
        )
        if stage == "1":
            counts = ", ".join(f"{count:,} {split}" for split, count in corpus.counts().items())
            say(f"images    {counts} used")
            for note in corpus.notes:
                say(f"note      {note}")
        say("")
        say(f"stage {stage}, {recipe.image.px} px")
        for line in describe_forecast(found[stage], batch_size=recipe.optim.batch_size):
            say(line)
    say("")
    for command in asked.commands():
        say(command.line)
    refuse_problems(*found.values())
    return {"dry_run": True, **{f"stage{s}": f.to_dict() for s, f in found.items()}}
