"""`d2s evaluate`: recall of models on a split, as a table or as JSON."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UserError
from pipelines.console.command_line import print_dry_run, print_result, say
from pipelines.console.options import COUNT, FOLDER, shared
from pipelines.console.outputs import Output, check_writable, overwrite_option
from pipelines.console.progress import ChangingProgress
from pipelines.pages.kit import PAGE_MARK
from vse.evaluation.comparison import (
    describe_counts,
    make_tables,
    write_latex,
    write_markdown,
    write_text,
)

if TYPE_CHECKING:
    from vse.embedders.by_name import ModelReference
    from vse.evaluation.protocol import Protocol
    from vse.evaluation.split import DualEncoder, SplitResult
    from vse.samples.corpus import Corpus, Sample

PARTIAL = 3
FORMATS = ("text", "markdown", "latex")


@click.command(
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but images of the split were "
    "missing or unreadable, 130 interrupted."
)
@click.option("-m", "--model", "models", multiple=True, default=("runs/stage2",), show_default=True,
              help="Model to measure: folder of a training run, OWNER/NAME on the Hub, "
              "open_clip:ARCH/WEIGHTS or sentence-transformers:NAME. Repeat it to compare models "
              "in one table.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True,
              help="Split to measure on.")  # fmt: skip
@shared("images", help="Folder of the images.  [default: the one used in training]")
@shared("captions", help="Sparse captions and splits.  [default: those used in training]")
@click.option("--folds", type=click.IntRange(min=0),
              help="Also report the mean over this many folds of the images; 0 for none.  "
              "[default: 5 for COCO's 5,000 test images]")  # fmt: skip
@click.option("--ground-truth", type=FOLDER,
              help="Folder with the JSON files of ECCV Caption and CxC.  [default: those of the "
              "package eccv-caption, if the split is COCO's]")  # fmt: skip
@click.option("--ranks", type=Output(dir_okay=False, mark=b"retrieved_scores"),
              help="Write the rank of every query and its ten nearest items to this Parquet "
              "file.")  # fmt: skip
@click.option("--failures", type=Output(dir_okay=False, mark=PAGE_MARK),
              help="Write the failing queries, worst first, to this HTML page.")  # fmt: skip
@click.option("--failures-limit", type=COUNT, default=50, show_default=True,
              help="Number of failing queries on that page, in each direction.")  # fmt: skip
@click.option("-o", "--out", type=Output(dir_okay=False, mark=b'"i2t_r1"'),
              help="JSON file for the results.  [default: eval-SPLIT.json in the model's folder; "
              "evaluations/NAME/eval-SPLIT.json for a model of the Hub]")  # fmt: skip
@overwrite_option
@shared("dtype", "limit", "dry-run")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
              help="Layout of the printed table.")  # fmt: skip
@shared("json")
def evaluate(
    models: tuple[str, ...],
    split: str,
    images: Path | None,
    captions: Path | None,
    folds: int | None,
    ground_truth: Path | None,
    ranks: Path | None,
    failures: Path | None,
    failures_limit: int,
    out: Path | None,
    dtype: str,
    limit: int | None,
    dry_run: bool,
    form: str,
    as_json: bool,
) -> int:
    """Measure R@1, R@5 and R@10 in both directions. Ties count against the model.

    With --model given several times, all models are measured on the same images and captions.

    \b
    Examples:
      d2s evaluate
      d2s evaluate --model runs/l2 --failures failures.html --ranks ranks.parquet
      d2s evaluate --model runs/stage2 --model open_clip:ViT-B-32/openai
    """
    from data.escaping import shown
    from vse.embedders.by_name import find_reference
    from vse.evaluation.protocol import choose_protocol
    from vse.evaluation.results import name_results
    from vse.evaluation.split import open_corpus

    if len(models) > 1 and (ranks is not None or failures is not None):
        raise click.UsageError("--ranks and --failures work with one model: specify one --model")
    if as_json and form != "text":
        raise click.UsageError(f"--json cannot be combined with --format {form}")
    references = [find_reference(name, dtype=dtype) for name in models]
    targets = _name_targets(references, out, name_results(split, limit))
    own_data = images is None and captions is None
    whose = _choose_data(references)
    corpus, images, captions = open_corpus(
        whose, split=split, images=images, captions=captions, limit=limit
    )
    protocol = choose_protocol(
        corpus.splits[split], asked=corpus.asked[split], folds=folds, truth=ground_truth
    )
    say(f"images    {shown(images)}")
    say(f"captions  {shown(captions)} ({corpus.counts()[split]} {split} images used)")
    for note in (*corpus.notes, *protocol.notes):
        say(f"note      {note}")
    for target in targets:
        check_writable(target)
    together = out is not None and len(models) > 1
    unwritten: Exception | None = None
    summaries: list[dict[str, Any]] = []
    for reference, target in zip(references, targets, strict=True):
        same = own_data and _is_same_data(reference, whose)
        notes = _list_notes(reference, whose, split=split, own_data=same)
        trained_on = 0 if same else _count_trained_on(reference, corpus.splits[split])
        if trained_on:
            notes.append(
                f"the model was trained on {trained_on:,} of these {len(corpus.splits[split]):,} "
                "images: its figures are optimistic"
            )
        # Loaded and released in there: two models need not fit into memory together.
        measured = _measure(
            reference,
            notes,
            corpus,
            protocol,
            split=split,
            trained_on=trained_on,
            limit=limit,
            keep=bool(ranks or failures),
            dry_run=dry_run,
        )
        if measured is not None:
            result, summary = measured
            summaries.append(summary)
            try:
                _write_results(summaries, target, together=together)
                _write_pages(result, summary, ranks=ranks, failures=failures, limit=failures_limit)
            except (UserError, OSError) as error:
                # Print what was measured, even if files cannot be written.
                unwritten = unwritten or error
    written = dict.fromkeys(shown(p) for p in (*targets, ranks, failures) if p is not None)
    if dry_run:
        print_dry_run(list(written), as_json=as_json)
        return 0
    for line in written if unwritten is None else ():
        say(f"written   {line}")
    print_result(
        _gather(summaries, several=len(models) > 1),
        _format(summaries, form).splitlines(),
        as_json=as_json,
    )
    if unwritten is not None:
        raise unwritten
    return PARTIAL if any(summary["images_left_out"] for summary in summaries) else 0


def _name_targets(references: Sequence[ModelReference], out: Path | None, name: str) -> list[Path]:
    """The results file of each model: `out` for all, if given."""
    if out is not None:
        return [out] * len(references)
    targets = [reference.home / name for reference in references]
    twice = [path for path, count in Counter(targets).items() if count > 1]
    if twice:
        raise click.UsageError(
            f"two models would write {twice[0]}: specify each model once, or use --out"
        )
    return targets


def _choose_data(references: Sequence[ModelReference]) -> Mapping[str, Any] | None:
    """config.json of the first d2s model, preferably one that records its data."""
    ours = [reference.config for reference in references if reference.config is not None]
    with_data = [config for config in ours if (config.get("data") or {}).get("images")]
    return next(iter([*with_data, *ours]), None)


def _is_same_data(reference: ModelReference, whose: Mapping[str, Any] | None) -> bool:
    """Whether a run was trained on the data that is measured, which `whose` has recorded."""
    if reference.config is None or whose is None:
        return False
    mine, measured = reference.config["data"], whose["data"]
    return all(mine.get(key) == measured.get(key) for key in ("images", "captions", "texts"))


def _count_trained_on(reference: ModelReference, samples: Sequence[Sample]) -> int | None:
    from vse.evaluation.split import count_training_images

    config = reference.config
    if config is None:
        return None
    return count_training_images(config, samples, folder=reference.folder)


def _list_notes(
    reference: ModelReference, whose: Mapping[str, Any] | None, *, split: str, own_data: bool
) -> list[str]:
    """Notes for the user about this model's results."""
    from vse.evaluation.split import describe_selection

    config = reference.config
    if config is None or whose is None:
        return []
    notes = describe_selection(config, split=split, own_data=own_data)
    cuts = [one["recipe"]["data"].get("captions_per_image") for one in (config, whose)]
    if cuts[0] != cuts[1]:
        mine, used = (f"{cut} captions" if cut else "all captions" for cut in cuts)
        notes.append(f"trained with {mine} per image, measured with {used} like the others")
    return notes


def _tell_model(reference: ModelReference, encoder: DualEncoder) -> None:
    about = encoder.describe()
    stage = f"stage {about['stage']}" if reference.config is not None else "as released"
    say(f"model     {reference.name} ({stage}, input {encoder.px} px, {about['resize']})")
    if about["finished"] is False:
        say(
            f"note      the run is not finished (step {about['step']}): these are the results of "
            f"its best evaluation so far (step {about['best_step']})"
        )


def _measure(
    reference: ModelReference,
    notes: Sequence[str],
    corpus: Corpus,
    protocol: Protocol,
    *,
    split: str,
    trained_on: int | None,
    limit: int | None,
    keep: bool,
    dry_run: bool,
) -> tuple[SplitResult, dict[str, Any]] | None:
    """Load a model and measure it; in a dry run, only load it.

    `keep` is the number of top hits to keep per query.
    """
    from vse.evaluation.ranks_file import TOP
    from vse.evaluation.split import evaluate_split

    encoder = reference.load()
    _tell_model(reference, encoder)
    for note in notes:
        say(f"note      {note}")
    if dry_run:
        return None
    with ChangingProgress() as progress:
        result = evaluate_split(
            encoder,
            corpus,
            split=split,
            keep=TOP if keep else 0,
            report=partial(progress.update, "encode"),
        )
    summary = result.summary(encoder, protocol=protocol, trained_on=trained_on, limit=limit)
    for note in (*result.corpus.notes, *describe_counts(summary)):
        if note not in corpus.notes:
            say(f"note      {note}")
    return result, summary


def _write_results(summaries: Sequence[dict[str, Any]], target: Path, *, together: bool) -> None:
    """Write the last model's results, or those of all finished models, so that nothing is lost."""
    from vse.evaluation.results import write_summary

    write_summary(_gather(summaries, several=True) if together else summaries[-1], target)


def _gather(summaries: Sequence[dict[str, Any]], *, several: bool) -> dict[str, Any]:
    """The results of the only model, or a list under `models`."""
    if not several:
        return summaries[0]
    return {"format": summaries[0]["format"], "models": list(summaries)}


def _format(summaries: Sequence[dict[str, Any]], form: str) -> str:
    if form == "text":
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        return write_text(make_tables(summaries, ranks=True), width=width)
    writer = write_markdown if form == "markdown" else write_latex
    return writer(make_tables(summaries))


def _write_pages(
    result: SplitResult,
    summary: dict[str, Any],
    *,
    ranks: Path | None,
    failures: Path | None,
    limit: int,
) -> None:
    from pipelines.pages.failures.page import build_failures, write_failures

    if ranks is not None:
        result.write_ranks(ranks, summary)
    if failures is not None:
        write_failures(build_failures(result, summary, limit=limit), failures)
