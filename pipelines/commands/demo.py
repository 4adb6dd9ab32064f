"""`d2s demo`: the whole pipeline on a generated world, with a report."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.console.command_line import print_result
from pipelines.console.options import COUNT, shared
from pipelines.console.outputs import overwrite_option


@click.command()
@shared(
    "out",
    default=Path("artifacts/demo"),
    show_default=True,
    help="Folder for everything the demo writes.",
)
@click.option(
    "--train",
    type=click.IntRange(min=64),
    default=1000,
    show_default=True,
    help="Training images.",
)
@click.option("--val", type=COUNT, default=200, show_default=True, help="Validation images.")
@click.option("--test", type=COUNT, default=500, show_default=True, help="Test images.")
@click.option(
    "--steps",
    type=click.IntRange(min=2),
    help="Training steps of each model, both stages together.  [default: the recipe's]",
)
@shared("seed", default=0, show_default=True)
@overwrite_option
@shared("json")
def demo(
    out: Path, train: int, val: int, test: int, steps: int | None, seed: int, as_json: bool
) -> None:
    """Caption a generated world, train on it with and without dense text, and compare.

    Every step is a d2s command, printed as it starts. Run the demo again to continue after an
    interruption. It ends with report.html and results.json in the folder given by --out.

    \b
    Examples:
      d2s demo
      d2s demo --out small --train 128 --val 16 --test 24 --steps 6
    """
    from pipelines.experiments.baseline import COMPARED
    from pipelines.experiments.demo import run_demo
    from vse.evaluation.results import RECALLS

    results, report = run_demo(out=out, train=train, val=val, test=test, steps=steps, seed=seed)
    lines = [
        f"{'trained on':<18}{'I2T R@1':>9}{'R@5':>7}{'R@10':>7}"
        f"{'T2I R@1':>9}{'R@5':>7}{'R@10':>7}{'rSum':>8}"
    ]
    for method in COMPARED:
        row = results[method.key]
        widths = zip(RECALLS, (9, 7, 7, 9, 7, 7, 8), strict=True)
        text = "".join(f"{row[key]:>{width}.1f}" for key, width in widths)
        lines.append(f"{method.name:<18}{text}")
    oracle, captioner = results["oracle"], results["captioner"]
    lines += [
        f"upper bound of R@1: I2T {oracle['i2t_r1']:.1f}, T2I {oracle['t2i_r1']:.1f}",
        f"captioner: {100 * captioner['true']:.1f} % of its statements are true, and they cover "
        f"{100 * captioner['told']:.1f} % of the facts",
        f"time: {results['seconds']['total']:.0f} s",
        f"report: {report}",
    ]
    print_result(results, lines, as_json=as_json)
