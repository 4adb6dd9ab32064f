"""`d2s evaluate`: recall of a trained model on a split, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UserError
from pipelines.evaluate_table import format_table
from pipelines.progress import ProgressReporter

if TYPE_CHECKING:
    from vse.benchmark import SplitResult
    from vse.embedder import Embedder

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
PARTIAL = 3


@click.command(
    epilog="Exit codes: 0 done, 1 failed, 2 called wrongly, 3 done but images of the split were "
    "left out (missing, or cannot be read), 130 interrupted."
)
@click.option("--model", type=FOLDER, default=Path("runs/stage2"), show_default=True,
              help="Folder of a training run.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--images", type=FOLDER, help="Images.  [default: those of the training]")
@click.option("--captions", type=click.Path(path_type=Path),
              help="Captions and splits.  [default: those of the training]")  # fmt: skip
@click.option("--folds", type=click.IntRange(min=0),
              help="Mean of so many folds of the images, too; 0 for none.  "
              "[default: 5 for COCO's 5,000 images]")  # fmt: skip
@click.option("--ground-truth", type=FOLDER,
              help="Folder of the JSON files of ECCV Caption and CxC.  [default: those of the "
              "extra d2s-vse[eccv], if the split is COCO's]")  # fmt: skip
@click.option("--ranks", type=FILE,
              help="Parquet file to write: each query's rank and the ten found first.")  # fmt: skip
@click.option("--errors", type=FILE,
              help="HTML page to write: failing queries, worst first.")  # fmt: skip
@click.option("--errors-limit", type=click.IntRange(min=1), default=50, show_default=True,
              help="Queries on that page, each way.")  # fmt: skip
@click.option("--out", type=FILE,
              help="JSON file to write.  [default: eval-SPLIT.json beside the model]")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1),
              help="Only so many images of the split, into a file of their own.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check model and data, say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    model: Path,
    split: str,
    images: Path | None,
    captions: Path | None,
    folds: int | None,
    ground_truth: Path | None,
    ranks: Path | None,
    errors: Path | None,
    errors_limit: int,
    out: Path | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Measure R@1, R@5 and R@10 both ways. Ties count against the model."""
    from vse.benchmark import evaluate_split, open_corpus, tell_choice, write_summary
    from vse.embedder import load_embedder
    from vse.evaluation.protocol import choose_protocol
    from vse.evaluation.ranks_file import TOP
    from vse.places import shown

    embedder = load_embedder(model)
    own_data = images is None and captions is None
    corpus, images, captions = open_corpus(
        embedder, split=split, images=images, captions=captions, limit=limit
    )
    protocol = choose_protocol(corpus.splits[split], folds=folds, truth=ground_truth)
    count = corpus.counts()[split]
    _say(f"model     {shown(model)} (stage {embedder.config['stage']}, input {embedder.px} px)")
    _say(f"images    {shown(images)}")
    _say(f"captions  {shown(captions)} ({count} {split} images used)")
    _warn_unfinished(model)
    choice = tell_choice(embedder, split=split, own_data=own_data)
    for note in (*choice, *corpus.notes, *protocol.notes):
        _say(f"note      {note}")
    target = out if out is not None else model / _name_results(split, limit)
    targets = [shown(path) for path in (target, ranks, errors) if path is not None]
    if dry_run:
        _say(f"dry run: would write {', '.join(targets)}")
        return 0
    with _Progress() as progress:
        keep = TOP if ranks is not None or errors is not None else 0
        result = evaluate_split(embedder, corpus, split=split, keep=keep, report=progress.follow)
    for note in result.notes[len(corpus.notes) :]:
        _say(f"note      {note}")
    summary = result.summary(embedder, model=model, protocol=protocol)
    write_summary(summary, target)
    _write_pages(result, summary, embedder, ranks=ranks, errors=errors, errors_limit=errors_limit)
    for line in targets:
        _say(f"written   {line}")
    click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(format_table(summary)))
    return PARTIAL if summary["images_left_out"] else 0


def _name_results(split: str, limit: int | None) -> str:
    """The first `limit` images have a file of their own and do not replace the whole split's."""
    return f"eval-{split}.json" if limit is None else f"eval-{split}-first-{limit}.json"


def _warn_unfinished(model: Path) -> None:
    from vse.benchmark import how_far

    done = how_far(model)
    if done["finished"] is False:
        _say(
            f"note      the run is not finished (step {done['step']}): these figures are of its "
            f"best evaluation so far (step {done['best_step']})"
        )


def _write_pages(
    result: SplitResult,
    summary: dict[str, Any],
    embedder: Embedder,
    *,
    ranks: Path | None,
    errors: Path | None,
    errors_limit: int,
) -> None:
    from pipelines.errors.assembly import assemble_errors
    from pipelines.errors.page import write_errors

    try:
        if ranks is not None:
            result.write_ranks(ranks, embedder, model=Path(summary["model"]))
        if errors is not None:
            write_errors(assemble_errors(result, summary, limit=errors_limit), errors)
    except OSError as error:
        place = error.filename or ranks or errors
        raise UserError(f"cannot write {place}: {error.strerror or error}") from error


class _Progress:
    """Tells how many images, then captions, are encoded."""

    def __init__(self) -> None:
        self._what: str | None = None
        self._reporter: ProgressReporter | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reporter is not None:
            self._reporter.__exit__(None, None, None)

    def follow(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self.__exit__()
            reporter = ProgressReporter(total=total, label="encode", unit=what)
            self._what, self._reporter = what, reporter.__enter__()
        assert self._reporter is not None
        self._reporter.update(done)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
