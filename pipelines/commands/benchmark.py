"""`d2s benchmark`: models on public benchmarks, each measured as its own code does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UserError
from pipelines.console.command_line import print_dry_run, print_result, say
from pipelines.console.options import FOLDER, complete_from, shared
from pipelines.console.outputs import OUTPUT_FOLDER, check_writable
from pipelines.console.progress import ChangingProgress
from vse.evaluation.comparison import write_latex, write_markdown, write_text

if TYPE_CHECKING:
    from vse.embedders.by_name import ModelReference
    from vse.evaluation.benchmarks.declaration import Benchmark
    from vse.evaluation.benchmarks.opening import Opened

WRITERS = {"text": write_text, "markdown": write_markdown, "latex": write_latex}


def _complete(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    from vse.evaluation.benchmarks.declaration import shipped_benchmarks

    return complete_from(shipped_benchmarks(), incomplete)


@click.command()
@click.argument("names", nargs=-1, metavar="[SET]...", shell_complete=_complete)
@click.option("--list", "listed", is_flag=True,
              help="List the benchmarks with size, measure, license and origin.")  # fmt: skip
@click.option("-m", "--model", "models", multiple=True, default=("runs/stage2",), show_default=True,
              help="Model to measure: folder of a training run, OWNER/NAME on the Hub, "
              "open_clip:ARCH/WEIGHTS or sentence-transformers:NAME. Can be repeated.")  # fmt: skip
@click.option("--data", type=FOLDER,
              help="Folder of the set as published, or a folder that contains one per SET.  "
                  "[default: from the Hub, for the sets that are there]")  # fmt: skip
@click.option(
    "--revision", help=("Commit of the data set on the Hub, for a set without a pinned commit.")
)
@shared("dtype")
@shared("limit", help="Use only the first N examples; the results are marked as partial.")
@click.option("-o", "--out", type=OUTPUT_FOLDER,
              help="Folder for the results, with one for each model.  [default: the model's "
              "folder; evaluations/NAME/ for a model of others]")  # fmt: skip
@click.option("--mteb", type=OUTPUT_FOLDER,
              help="Also write the results to this folder in MTEB's layout.")  # fmt: skip
@shared("dry-run")
@click.option("--format", "form", type=click.Choice(list(WRITERS)), default="text",
              show_default=True, help="Layout of the printed table.")  # fmt: skip
@shared("json")
def benchmark(
    names: tuple[str, ...],
    listed: bool,
    models: tuple[str, ...],
    data: Path | None,
    revision: str | None,
    dtype: str,
    limit: int | None,
    out: Path | None,
    mteb: Path | None,
    dry_run: bool,
    form: str,
    as_json: bool,
) -> None:
    """Measure models on public benchmarks: SET is a name of --list, or your own YAML file.

    Files are compared with their known hashes; where none is known, with those of the first time.
    What is finished is not computed again for the same weights and files.

    \b
    Examples:
      d2s benchmark --list
      d2s benchmark docci --data docci/ --model runs/stage2
      d2s benchmark coco eccv-caption cxc --data coco/ --mteb results/
    """
    from vse.evaluation.benchmarks.declaration import read_benchmark, shipped_benchmarks

    if listed:
        _print_list([read_benchmark(name) for name in shipped_benchmarks()], as_json=as_json)
        return
    if not names:
        raise click.UsageError(f"specify a SET: {', '.join(shipped_benchmarks())}")
    if as_json and form != "text":
        raise click.UsageError(f"--json cannot be combined with --format {form}")
    if revision is not None and len(names) > 1:
        raise click.UsageError("--revision applies to one data set: specify one SET")
    from vse.embedders.by_name import ELSEWHERE, find_reference

    record = (out or ELSEWHERE) / _record_name()
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(_open(read_benchmark(name), data, revision, limit))
            for name in dict.fromkeys(names)
        ]
        for one in opened:
            _check(one, record)
        references = [find_reference(name, dtype=dtype) for name in dict.fromkeys(models)]
        targets = [[_name_target(ref, one, out) for one in opened] for ref in references]
        every = [path for mine in targets for path in mine]
        if twice := next((path for path in every if every.count(path) > 1), None):
            raise click.UsageError(
                f"two models would write {twice}: measure them separately, with another --out each"
            )
        for target in (record, *every):
            check_writable(target)
        if dry_run:
            print_dry_run(list(map(str, every)), as_json=as_json)
            return
        results: list[dict[str, Any]] = []
        try:
            for reference, mine in zip(references, targets, strict=True):
                results.extend(_measure(reference, opened, mine, record=record, mteb=mteb))
        finally:
            # Print what was measured, even if the rest fails.
            if results:
                _print(results, form, as_json=as_json)


def _record_name() -> str:
    from vse.evaluation.benchmarks.opening import RECORD

    return RECORD


def _open(
    declared: Benchmark, data: Path | None, revision: str | None, limit: int | None
) -> contextlib.AbstractContextManager[Opened]:
    from vse.evaluation.benchmarks.opening import open_benchmark

    return open_benchmark(declared, data=data, revision=revision, limit=limit)


def _check(one: Opened, record: Path) -> None:
    from data.escaping import shown
    from vse.evaluation.benchmarks.opening import check_record

    check_record(one, record)
    where = shown(one.folder) if one.revision is None else f"the Hub, revision {one.revision}"
    part = "" if one.limit is None else f" (partial: the first {one.limit})"
    say(f"set       {one.benchmark.name}: {len(one.examples):,} examples in {where}{part}")


def _name_target(reference: ModelReference, one: Opened, out: Path | None) -> Path:
    """Results on a part of a set have a separate file and do not replace those on the whole set."""
    from vse.embedders.by_name import name_folder

    folder = reference.home if out is None else out / name_folder(reference.name)
    part = "" if one.limit is None else f"-first-{one.limit}"
    return folder / f"benchmark-{one.benchmark.name}{part}.json"


def _measure(
    reference: ModelReference,
    opened: Sequence[Opened],
    targets: Sequence[Path],
    *,
    record: Path,
    mteb: Path | None,
) -> Iterator[dict[str, Any]]:
    """Measure one model, which is loaded once and then released; each result is written at once."""
    from vse.evaluation.benchmarks.measure import Embeddings, measure_benchmark, name_inputs
    from vse.evaluation.benchmarks.report import write_mteb
    from vse.evaluation.results import write_summary

    encoder = reference.load()
    about = encoder.describe()
    say(f"model     {reference.name} (input {encoder.px} px, {about['resize']})")
    last = Embeddings()
    for one, target in zip(opened, targets, strict=True):
        # Earlier versions did not know the fingerprint.
        older = {key: value for key, value in about.items() if key != "fingerprint"}
        names = {True: name_inputs(one, about), False: name_inputs(one, older)}
        result = kept = _find_finished(target, names)
        if result is None:
            with ChangingProgress() as progress:
                report = partial(progress.update, f"{one.benchmark.name}: encode")
                result = measure_benchmark(encoder, one, last=last, report=report)
        yield result
        if kept is None:
            write_summary(result, target)
        one.record(record)
        say(f"{'kept' if kept else 'written':<9} {target}")
        if mteb is not None:
            written = write_mteb(result, one.benchmark, mteb)
            say(
                f"written   {written}"
                if written
                else ("note      partial results are not written as MTEB files")
            )


def _find_finished(target: Path, inputs: Mapping[bool, str]) -> dict[str, Any] | None:
    """Finished results with this hash of their inputs, by whether they have a fingerprint."""
    from data.files.text_files import read_json

    if not target.is_file():
        return None
    try:
        found = read_json(target)
    except UserError:
        say(f"note      {target} cannot be read and will be rewritten")
        return None
    if not isinstance(found, dict) or found.get("inputs_sha256") != inputs["fingerprint" in found]:
        return None
    return found


def _print(results: Sequence[Mapping[str, Any]], form: str, *, as_json: bool) -> None:
    from vse.evaluation.benchmarks.report import tabulate

    about = {"format": results[0]["format"], "results": list(results)}
    print_result(about, WRITERS[form](tabulate(results)).splitlines(), as_json=as_json)


def _print_list(declared: Sequence[Benchmark], *, as_json: bool) -> None:
    from dataclasses import asdict

    lines = []
    for one in declared:
        size = f"{one.examples:,} examples" + (f", {one.texts:,} texts" if one.texts else "")
        several = f", {len(one.languages)} languages" if len(one.languages) > 1 else ""
        origin = "--data FOLDER, or the Hub" if one.hub else "--data FOLDER"
        lines += [
            f"{one.name}: {one.about}",
            f"    {size}{several}; measure {one.metric}; license {one.license}",
            f"    {origin}: {'; '.join(one.get)}",
        ]
    print_result({"benchmarks": [asdict(one) for one in declared]}, lines, as_json=as_json)
