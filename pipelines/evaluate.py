"""`d2s evaluate`: recall of a trained model on a split, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--model", type=FOLDER, default=Path("runs/stage2"), show_default=True,
              help="Folder of a training run.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--images", type=FOLDER, help="Images.  [default: those of the training]")
@click.option("--captions", type=click.Path(path_type=Path),
              help="Captions and splits.  [default: those of the training]")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="JSON file to write.  [default: eval-SPLIT.json beside the model]")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images of the split.")
@click.option("--dry-run", is_flag=True, help="Check model and data, say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    model: Path,
    split: str,
    images: Path | None,
    captions: Path | None,
    out: Path | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure R@1, R@5 and R@10 both ways. Ties count against the model."""
    from vse.benchmark import evaluate_split, how_far, open_corpus, tell_choice, write_summary
    from vse.embedder import load_embedder
    from vse.places import shown

    embedder = load_embedder(model)
    own_data = images is None and captions is None
    corpus, images, captions = open_corpus(
        embedder, split=split, images=images, captions=captions, limit=limit
    )
    count = corpus.counts()[split]
    _say(f"model     {shown(model)} (stage {embedder.config['stage']}, input {embedder.px} px)")
    _say(f"images    {shown(images)}")
    _say(f"captions  {shown(captions)} ({count} {split} images used)")
    done = how_far(model)
    if done["finished"] is False:
        _say(
            f"note      the run is not finished (step {done['step']}): these figures are of its "
            f"best evaluation so far (step {done['best_step']})"
        )
    for note in (*tell_choice(embedder, split=split, own_data=own_data), *corpus.notes):
        _say(f"note      {note}")
    target = out if out is not None else model / f"eval-{split}.json"
    if dry_run:
        _say(f"dry run: would write {shown(target)}")
        return
    result = evaluate_split(embedder, corpus, split=split)
    for note in result.notes[len(corpus.notes) :]:
        _say(f"note      {note}")
    summary = result.summary(embedder, model=model)
    write_summary(summary, target)
    _say(f"written   {shown(target)}")
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        click.echo("\n".join(format_table(summary)))


def format_table(summary: dict[str, Any]) -> list[str]:
    """The recalls as lines of text, with the input size that they were measured at."""
    head = f"{'':<16}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>9}{'mean rank':>11}"
    lines = [
        f"{summary['split']}: {summary['images']} images, {summary['captions']} captions, "
        f"{summary['px']} px",
        head,
    ]
    for way, name in (("i2t", "image to text"), ("t2i", "text to image")):
        cells = "".join(f"{summary[f'{way}_r{cut}']:>7.1f}" for cut in (1, 5, 10))
        ranks = f"{summary[f'{way}_median_rank']:>9.1f}{summary[f'{way}_mean_rank']:>11.1f}"
        lines.append(f"{name:<16}{cells}{ranks}")
    return [*lines, f"{'rSum':<16}{summary['rsum']:>7.1f}"]


def _say(line: str) -> None:
    print(line, file=sys.stderr)
