"""`d2s scenes`: write the generated world to a folder."""

from __future__ import annotations

from pathlib import Path

import click

from data.scenes.correlation import MOST_BITS
from data.scenes.folder import write_scenes
from pipelines.console.command_line import print_result
from pipelines.console.options import COUNT, NumberRange, shared


@click.command()
@shared("out", default=Path("scenes"), show_default=True)
@click.option("--train", type=COUNT, default=1000, show_default=True, help="Training images.")
@click.option("--val", type=COUNT, default=200, show_default=True, help="Validation images.")
@click.option("--test", type=COUNT, default=500, show_default=True, help="Test images.")
@shared("seed", default=0, show_default=True, help="Random seed of the world.")
@click.option("--correlation", type=NumberRange(0, MOST_BITS), default=0.0,
              show_default=True, metavar="BITS",
              help="Bits of information that ground and shape give about an object.")  # fmt: skip
@shared("json")
def scenes(
    out: Path, train: int, val: int, test: int, seed: int, correlation: float, as_json: bool
) -> None:
    """Write images of a generated world, with five short captions each and the ground truth.

    Like captions by people, these mention what is large and central and leave out the rest, so
    the world shows what dense text adds, even on a small machine. With --correlation, part of
    what they leave out can be inferred, as in photos.

    \b
    Examples:
      d2s scenes --out scenes --train 500 --val 50 --test 100
    """
    counts = {"train": train, "val": val, "test": test}
    figures = write_scenes(out, counts=counts, seed=seed, correlation=correlation)
    oracle = figures["oracle"]
    lines = [
        f"{train + val + test} scenes in {out}: {train} train, {val} val, {test} test",
        f"facts: {figures['facts_per_image']:.1f} per image; {figures['facts_per_caption']:.1f} in "
        f"a caption of {figures['words_per_caption']:.1f} words, "
        f"{figures['facts_of_five_captions']:.1f} in five captions, which leave "
        f"{100 * figures['share_untold_by_five']:.0f} % out",
    ]
    if correlation and (bits := figures["bits"]):
        told = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in bits.items())
        lines.append(f"mutual information in bits: {told}")
    lines.append(
        f"upper bound of R@1 on test: text to image {oracle['t2i_r1']:.1f}, "
        f"image to text {oracle['i2t_r1']:.1f}"
    )
    print_result(figures, lines, as_json=as_json)
