"""`d2s score`: CLIPScore and CHAIR of a run's texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from data.errors import UserError
from pipelines.console.command_line import print_dry_run, print_result, say
from pipelines.console.options import FILE, FOLDER, shared
from pipelines.console.outputs import check_writable
from pipelines.console.progress import ProgressReporter

if TYPE_CHECKING:
    import pyarrow as pa

    from captioner.score.chair import ChairSource
    from captioner.score.clip_run import ClipPass

PARTIAL = 3
_COLUMNS = ["sample_id", "file_name", "image_id", "image_sha256", "caption", "captions"]


@click.command(
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some images could not be "
    "read, 130 interrupted: run the same command again to continue."
)
@click.argument("directory", type=FOLDER, metavar="DIR")
@click.option("--clip", metavar="MODEL",
              help="Compute CLIPScore with this model: open_clip:ARCH/WEIGHTS (WEIGHTS is a tag or "
              "a .safetensors file), open_clip:FOLDER, or open_clip:hf-hub:ORG/REPO.")  # fmt: skip
@click.option("--objects", type=FILE,
              help="Compute CHAIR with these objects: COCO's instances_*.json, or JSON of the form "
              "{file name or image id: [objects]}.")  # fmt: skip
@click.option("--synonyms", type=FILE,
              help="YAML file with the words for each object.  [default: COCO's 80]")  # fmt: skip
@shared("images", "device")
@shared("batch-size", default=32)
@shared("workers", "limit", "dry-run", "json")
@click.pass_context
def score(
    ctx: click.Context,
    directory: Path,
    clip: str | None,
    objects: Path | None,
    synonyms: Path | None,
    images: Path | None,
    device: str | None,
    batch_size: int,
    workers: int,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Score the texts of the captioning run DIR against images (--clip) or objects (--objects).

    Writes DIR/scores.parquet. Scores that are not computed this time are kept.

    \b
    Examples:
      d2s score dense/coco --clip open_clip:ViT-B-32/openai
      d2s score dense/coco --objects instances_val2014.json
    """
    from captioner.score.scores import measure_chair, name_scores
    from data.dense.shards import read_rows
    from data.escaping import shown

    _check_options(clip, objects, synonyms)
    if clip is None:
        _refuse_of_clip(ctx)
    texts = read_rows(directory, _COLUMNS)
    rows = min(limit or texts.num_rows, texts.num_rows)
    target = directory / name_scores(limit)
    check_writable(target)
    say(f"text      {shown(directory)} ({rows:,} rows)")
    # For the whole run: a name that is unique among a few images may not be unique among all.
    chair = _plan_chair(texts, objects, synonyms) if objects is not None else None
    texts = texts.slice(0, rows)
    settings = None
    if clip is not None:
        settings = _plan_clip(directory, images, clip, device, batch_size, workers)
    if dry_run:
        print_dry_run([shown(target)], as_json=as_json)
        return 0
    measured: dict[str, pa.Table] = {}
    about: dict[str, Any] = {}
    if chair is not None:
        source, there = chair
        measured["chair"] = measure_chair(texts, there[:rows], source.words)
        about["chair"] = source.describe()
    if settings is not None:
        measured["clip"], about["clip"] = _measure_clip(directory, texts, settings, limit)
    summary = _write(directory, target, texts, measured, about)
    say(f"written   {shown(target)}")
    print_result(summary, format_summary(summary), as_json=as_json)
    return PARTIAL if clip is not None and summary["clip"]["errors"] else 0


def format_summary(summary: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""
    lines = [f"{summary['rows']:,} rows"]
    if clip := summary["clip"]:
        lines.append(
            f"CLIPScore  {_show(clip['clipscore'])} mean over {clip['texts']:,} texts of "
            f"{clip['sentences']:,} sentences"
        )
        lines.append(
            f"           {_show(clip['clipscore_p5'])} and less for 5 % of the texts; "
            f"{_show(clip['clipscore_min'])} mean of each text's worst sentence"
        )
        if clip["cut_sentences"]:
            lines.append(f"           sentences too long for CLIP: {clip['cut_sentences']:,}")
        if clip["errors"]:
            lines.append(f"           images that could not be read: {clip['errors']:,}")
    if chair := summary["chair"]:
        lines.append(
            f"CHAIRi     {_show(chair['chair_i'])}: {chair['hallucinated']:,} of "
            f"{chair['mentions']:,} mentions are of objects that are not in the image"
        )
        lines.append(f"CHAIRs     {_show(chair['chair_s'])} of {chair['texts']:,} texts have one")
        often = [f"{name} {count:,}" for name, count in chair["most_hallucinated"].items()]
        lines += [f"           most often {', '.join(often)}"] if often else []
    return lines


def _check_options(clip: str | None, objects: Path | None, synonyms: Path | None) -> None:
    if clip is None and objects is None:
        raise click.UsageError(
            "specify the scores to compute: --clip MODEL, --objects FILE, or both"
        )
    if synonyms is not None and objects is None:
        raise click.UsageError("--synonyms requires --objects")


def _refuse_of_clip(ctx: click.Context) -> None:
    for name in ("images", "device", "batch_size", "workers"):
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} requires --clip, which is what reads the images")


def _plan_clip(
    directory: Path,
    images: Path | None,
    clip: str,
    device: str | None,
    batch_size: int,
    workers: int,
) -> ClipPass:
    """Find images and weights; the model is not loaded yet."""
    from captioner.score.clip_model import ClipChoice
    from captioner.score.clip_run import ClipPass
    from data.dense.run import find_pixel_limit, read_run, require_source
    from vse.samples.discovery import shown

    choice = ClipChoice.parse(clip)
    weights = choice.find_weights()
    run = read_run(directory)
    source = require_source(run, where=directory, images=images)
    place = shown(Path(source.root)) if source.root else "as recorded"
    say(f"images    {place} ({source.kind})")
    say(f"CLIP      {clip}{f' ({weights})' if weights else ''}")
    limit = find_pixel_limit(run)
    return ClipPass(choice, source, device, batch_size, workers, limit)


def _measure_clip(
    directory: Path, texts: pa.Table, settings: ClipPass, limit: int | None
) -> tuple[pa.Table, dict[str, Any]]:
    from captioner.score.clip_run import measure_clip

    with ProgressReporter(total=texts.num_rows, label="score", unit="texts") as progress:
        # The parts belong to the whole run: a trial must not replace them.
        return measure_clip(
            directory, texts, settings, keep_parts=limit is None, on_text=progress.update
        )


def _plan_chair(
    texts: pa.Table, objects: Path, synonyms: Path | None
) -> tuple[ChairSource, list[frozenset[str] | None]]:
    """Read objects and words, and find the objects of each row."""
    from captioner.score.chair import load_chair
    from data.escaping import shown

    chair = load_chair(objects, synonyms)
    names = (texts.column(name).to_pylist() for name in ("file_name", "image_id"))
    images = list(zip(*names, strict=True))
    known, notes = chair.known.find(images)
    found = len(known) - known.count(None)
    if images and not found:
        raise UserError(
            f"{objects} has none of the {len(images):,} images (wanted {images[0][0]!r}, found "
            f"{next(iter(chair.known.by_keys))[0]!r}): specify the objects of these images"
        )
    say(f"objects   {shown(objects)} (of {found:,} of the {len(images):,} images)")
    for note in notes:
        say(f"note      {note}")
    if unknown := sorted(chair.known.unknown):
        say(
            "note      these objects have no known words and are left out: "
            f"{', '.join(unknown[:5])}{' ...' if unknown[5:] else ''}")  # fmt: skip
    return chair, known


def _write(
    directory: Path,
    target: Path,
    texts: pa.Table,
    measured: dict[str, pa.Table],
    about: dict[str, Any],
) -> dict[str, Any]:
    from captioner.score.clip_run import drop_parts
    from captioner.score.scores import (
        combine_scores,
        describe_shards,
        name_scores,
        read_scores,
        summarise_scores,
        write_scores,
    )

    shards = describe_shards(directory)
    table = combine_scores(
        texts.column("sample_id").to_pylist(),
        measured,
        {"shards": shards, **about},
        earlier=read_scores(target),
    )
    write_scores(target, table)
    if "clip" in measured and target.name == name_scores(None):
        drop_parts(directory)
    return {"scores": str(target), **summarise_scores(table)}


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
