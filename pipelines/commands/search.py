"""`d2s search`: finds the images or texts in an index nearest to a text or an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.console.command_line import print_result, say
from pipelines.console.options import COUNT, FILE, shared
from pipelines.console.outputs import Output, overwrite_option
from pipelines.console.progress import ProgressReporter
from pipelines.pages.kit import PAGE_MARK
from vse.search.results import QueryHits, gather_hits, load_indexed_model

if TYPE_CHECKING:
    import numpy as np

    from vse.search.index import Index
    from vse.search.nearest import NearestRows

_SHOWN_LETTERS = 160


@click.command(epilog="Hits with equal scores are listed in the order of the index.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--index", "path", required=True, type=FILE, help="File written by `d2s embed`.")
@click.option("--image", "queries", multiple=True, type=FILE,
              help="Search with this image. Can be repeated.")  # fmt: skip
@shared("model")
@shared("top", type=COUNT, default=10, help="Number of hits to print for each query.")
@click.option("--faiss", is_flag=True,
              help="Search a graph instead of every row: faster in large files, may miss hits. It "
              "is built on first use.")  # fmt: skip
@click.option("--html", type=Output(dir_okay=False, mark=PAGE_MARK),
              help="Also write the hits, with thumbnails, to this HTML page.")  # fmt: skip
@overwrite_option
@shared("images", help="With --html: folder of the images.  [default: the one on record]")
@shared("device", "json")
def search(
    texts: tuple[str, ...],
    path: Path,
    queries: tuple[Path, ...],
    model: str | None,
    top: int,
    faiss: bool,
    html: Path | None,
    images: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Search an index for the images or texts nearest to each TEXT and each --image.

    \b
    Examples:
      d2s search --index coco.parquet "a red car" "two dogs"
      d2s search --index coco.parquet --image a.jpg --html hits.html
    """
    from vse.search.index import Index

    if not texts and not queries:
        raise click.UsageError("specify what to search for: a text, or --image FILE")
    if images is not None and html is None:
        raise click.UsageError("--images requires --html")
    index = Index(path)
    if images is not None and index.info.kind != "images":
        raise click.UsageError("--images requires an index of images")
    vectors = _embed(index, model, texts, queries, device)
    hits = _find(index, vectors, top=top, faiss=faiss)
    asked = [(text, None) for text in texts] + [(None, image) for image in queries]
    answers = [
        QueryHits(text, image, gather_hits(index, hits, number))
        for number, (text, image) in enumerate(asked)
    ]
    if html is not None:
        from pipelines.pages.search.page import write_hits

        write_hits(index, answers, html, images=images)
        say(f"written   {html}")
    about = {
        "index": str(path),
        "kind": index.info.kind,
        "rows": len(index),
        "results": [answer.to_dict() for answer in answers],
    }
    lines = [line for answer in answers for line in _format(answer, index)]
    print_result(about, lines, as_json=as_json)


def _embed(
    index: Index,
    model: str | None,
    texts: Sequence[str],
    images: Sequence[Path],
    device: str | None,
) -> np.ndarray:
    """Embed the queries with the index's model, (Q, D); texts first."""
    import numpy as np

    embedder = load_indexed_model([index], model, device=device)
    return np.concatenate([embedder.encode_queries(texts), embedder.encode_image(images)])


def _find(index: Index, vectors: np.ndarray, *, top: int, faiss: bool) -> NearestRows:
    from vse.search.graph import build_graph, open_graph
    from vse.search.nearest import find_nearest

    if not faiss:
        return find_nearest(index.blocks(), vectors, top=min(top, len(index)))
    graph = open_graph(index)
    if graph is None:
        with ProgressReporter(total=len(index), label="graph", unit="rows") as progress:
            graph = build_graph(index, on_row=progress.update)
    return graph.find_nearest(vectors, top=top)


def _format(answer: QueryHits, index: Index) -> list[str]:
    """The output as lines of text."""
    count = f"{len(answer.hits)} of {len(index):,} {index.info.kind}"
    lines = [f"{answer.query}: {count}"]
    for hit in answer.hits:
        what = hit.name if hit.text is None else f"{hit.text[:_SHOWN_LETTERS]}  ({hit.name})"
        lines.append(f"{hit.rank:>4}  {hit.score:>7.4f}  {what}")
    return lines
