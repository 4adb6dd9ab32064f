"""`d2s review`: a page for looking through the texts of a run, worst first."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import UserError
from pipelines.console.command_line import print_result, say
from pipelines.console.options import shared
from pipelines.console.outputs import Output, check_writable, overwrite_option
from pipelines.console.progress import ChangingProgress
from pipelines.pages.kit import PAGE_MARK, SHEET_MARK
from pipelines.pages.review.view import SORTS

if TYPE_CHECKING:
    from data.sources import Source
    from pipelines.pages.review.view import Review

PAGE_NAME = "review.html"
DEFAULT_LIMIT = 200


@click.command(
    epilog="Worst first means: errors, then texts that are empty, refusals or loops, then "
    "truncated ones, then other flags, then the rest; within each group the most repetitive "
    "first, then the lowest CLIPScore. Errors fill at most a quarter of the page if there are "
    "texts to show."
)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@shared("images")
@click.option(
    "-o",
    "--out",
    type=Output(dir_okay=False, mark=PAGE_MARK),
    help=f"HTML page to write.  [default: DIR/{PAGE_NAME}]",
)
@click.option(
    "--png",
    type=Output(dir_okay=False, mark=SHEET_MARK),
    help="Also draw a contact sheet of the first rows to this file.",
)
@shared(
    "limit",
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Number of rows on the page. Thumbnails stop at 16 MB in all.",
)
@click.option(
    "--flag",
    help="Show only rows with this flag or status, such as truncated; `error` is any error.",
)
@click.option(
    "--sort",
    default="worst",
    show_default=True,
    type=click.Choice(SORTS),
    help="Order of the rows; `score` is by CLIPScore, lowest first.",
)
@overwrite_option
@shared("dry-run", "json")
def review(
    directory: Path,
    images: Path | None,
    out: Path | None,
    png: Path | None,
    limit: int,
    flag: str | None,
    sort: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write an HTML page to look through the texts of the captioning run DIR, worst first.

    The page shows thumbnails, texts, flags and errors, and can be searched and filtered.

    \b
    Examples:
      d2s review dense/coco
      d2s review dense/coco --flag truncated --out truncated.html
    """
    from data.escaping import shown
    from pipelines.pages.review.build import build_review

    page = out if out is not None else directory / PAGE_NAME
    if not dry_run:
        check_writable(page)
    if png is not None and png.resolve() == page.resolve():
        raise click.UsageError("--out and --png are the same file")
    source = _find_images(directory, images)
    with ChangingProgress() as progress:
        found = build_review(
            directory,
            images=None if dry_run else source,
            flag=flag,
            sort=sort,
            limit=limit,
            on_entry=partial(progress.update, "review", "rows"),
        )
    result = _count(found, directory) | {"page": str(page), "png": str(png) if png else None}
    if dry_run:
        lines = [f"would write {shown(page)}: {_describe(result)}"]
    else:
        for note in found.notes:
            say(note)
        lines = _write(found, page, png, result)
    print_result(result, lines, as_json=as_json)


def _find_images(directory: Path, images: Path | None) -> Source | None:
    """The location of the images; None if they are no longer in the recorded place."""
    from data.dense.run import read_run, require_source

    try:
        return require_source(read_run(directory), where=directory, images=images)
    except UserError:
        if images is not None:
            raise
        return None


def _write(review: Review, page: Path, png: Path | None, result: dict[str, Any]) -> list[str]:
    """Write the requested files; returns messages and adds sizes to `result`."""
    from data.escaping import shown
    from pipelines.pages.review.page import write_page
    from pipelines.pages.review.sheet import write_sheet

    write_page(review, page)
    result["page_bytes"] = page.stat().st_size
    lines = [f"{shown(page)}: {_describe(result)}, {_show_size(result['page_bytes'])}"]
    if png is not None:
        result["png_rows"] = write_sheet(review, png)
        lines.append(f"{shown(png)}: the first {result['png_rows']:,} rows")
    return lines


def _count(review: Review, directory: Path) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "rows": review.rows,
        "matching": review.matching,
        "shown": len(review.entries),
        "pictures": review.pictures,
        "without_picture": sum(bool(entry.missing) for entry in review.entries),
        "ok": review.ok,
        "errors": review.rows - review.ok,
        "flagged": review.flagged,
        "flags": {tally.label: tally.count for tally in review.flags},
    }


def _describe(result: dict[str, Any]) -> str:
    pictures = f", {result['pictures']:,} pictures" if "pictures" in result else ""
    return f"{result['shown']:,} of {result['matching']:,} rows{pictures}"


def _show_size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.0f} kB"
