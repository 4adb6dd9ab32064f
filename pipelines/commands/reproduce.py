"""`d2s reproduce`: reproduces a published row with one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.console.command_line import print_result, say
from pipelines.console.options import complete_recipes, shared
from pipelines.workflow.steps import PARTIAL


# fmt: off
@click.command()
@click.argument("recipe", shell_complete=complete_recipes)
@shared("images", "captions", "dense")
@shared("out", help="Folder for both stages.  [default: runs/RECIPE]")
@shared("gpus", "set", "seed", "steps")
@shared("limit", help="Use only the first N images of each split.")
@shared("dry-run", "json")
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
) -> int:
    """Train both stages of RECIPE, evaluate, and print the figures beside the published ones.

    RECIPE is a name listed by `d2s recipe`, or a YAML file. Run the same command again to continue
    where it stopped.

    \b
    Examples:
      d2s reproduce f30k-vit-384 --images flickr30k/ --dry-run
    """
    from pipelines.console.forecast import show_time
    from pipelines.experiments.reproduction import Reproduction, format_comparison, run_reproduction
    from vse.recipes.files import locate_recipe, locate_towers, read_recipe
    from vse.samples.discovery import find_input

    raw = read_recipe(recipe)
    asked = Reproduction(
        recipe=locate_recipe(recipe),
        out=out if out is not None else Path("runs") / Path(recipe).stem,
        inputs=find_input(images=images, captions=captions, dense=dense, wants_dense=True),
        gpus=gpus,
        seed=seed,
        overrides=locate_towers(raw, overrides),
        steps=steps,
        limit=limit,
    )
    if dry_run:
        outcome = dry_run_reproduction(asked, raw)
        if as_json:
            print_result(outcome, (), as_json=True)
        return 0
    found = run_reproduction(asked, raw)
    part = "" if limit is None else f" first {limit:,} images of each split,"
    head = f"{found['recipe']}, {found['px']} px,{part} {show_time(found['seconds'])} in all"
    lost = found["images_left_out"]
    lines = [head, *([f"{lost} test images were left out"] if lost else ())]
    print_result(found, [*lines, *format_comparison(found["rows"])], as_json=as_json)
    return PARTIAL if lost else 0


def dry_run_reproduction(asked: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """Print the estimates for both stages; UserError if one would fail."""
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
