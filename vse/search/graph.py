"""Approximate nearest neighbors in a large index with an HNSW graph (faiss).

Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
Navigable Small World graphs", 2016. The graph is stored next to its index and contains all vectors,
so that searching reads nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.environment import name_install
from data.errors import UserError, first_line
from data.files.atomic import replace_whole, write_json
from vse.search.index import Index
from vse.search.nearest import NearestRows, score_pairs

# Neighbors per node, and candidates per node: during construction, and at least during search.
_NEIGHBOURS, _LOOK_BUILD, _LOOK_SEARCH = 32, 200, 128


def import_faiss() -> Any:
    """The package faiss. UserError if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            f"--faiss needs the package faiss-cpu ({name_install('faiss')}); without --faiss the "
            "search is exact and needs no package"
        ) from error
    return faiss


class Graph:
    """A graph over the rows of an index."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def find_nearest(self, queries: np.ndarray, *, top: int) -> NearestRows:
        """Like `vse.search.nearest.find_nearest`, but rows can be missed. Scores are exact."""
        faiss = import_faiss()
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        top = min(top, self._graph.ntotal)
        if top == 0:
            return NearestRows(np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0)))
        look = faiss.SearchParametersHNSW(efSearch=max(_LOOK_SEARCH, 2 * top))
        _, found = self._graph.search(queries, top, params=look)
        # Unusual vectors may give fewer hits, marked by -1; all queries get the common number.
        top = int((found >= 0).sum(axis=1).min(initial=top))
        rows = np.empty((len(queries), top), dtype=np.int64)
        scores = np.empty((len(queries), top))
        for number, candidates in enumerate(found):
            candidates = candidates[candidates >= 0]
            vectors = self._graph.reconstruct_batch(candidates)
            place = np.arange(len(candidates))
            exact = score_pairs(queries[number : number + 1], vectors, place * 0, place)
            order = np.lexsort((candidates, -exact))[:top]
            rows[number], scores[number] = candidates[order], exact[order]
        return NearestRows(rows, scores)


def name_graph(index: Path) -> Path:
    """FILE.parquet.faiss next to FILE.parquet; FILE.parquet.faiss.json describes it."""
    return index.with_name(f"{index.name}.faiss")


def open_graph(index: Index) -> Graph | None:
    """The graph of an index; None if there is none, or it is out of date.

    Raises:
        UserError: faiss is not installed, or the graph is damaged.
    """
    path = name_graph(index.path)
    about = path.with_name(f"{path.name}.json")
    wanted = _describe(index)
    try:
        if json.loads(about.read_text("utf-8")) != wanted or not path.is_file():
            return None
    except (OSError, ValueError):
        return None
    faiss = import_faiss()
    try:
        # Memory-mapped: a search only reads a small part of the file.
        graph = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{path} is damaged: delete it to rebuild it") from error
    if (graph.ntotal, graph.d) != (wanted["rows"], wanted["width"]):
        raise UserError(f"{path} is not the graph of {index.path}: delete it")
    return Graph(graph)


def build_graph(index: Index, *, on_row: Callable[[int], None]) -> Graph:
    """Build the graph and store it next to the index. All vectors must fit into memory.

    Args:
        on_row: called with the number of rows in it.

    Raises:
        UserError: faiss is not installed, or the file cannot be written.
    """
    faiss = import_faiss()
    graph = faiss.IndexHNSWFlat(index.info.width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _LOOK_BUILD
    for start, block in index.blocks():
        graph.add(np.ascontiguousarray(block))
        on_row(start + len(block))
    path = name_graph(index.path)
    about = path.with_name(f"{path.name}.json")
    # The description last: it makes the graph valid.
    about.unlink(missing_ok=True)
    with replace_whole(path) as temporary:
        try:
            faiss.write_index(graph, str(temporary))
        except RuntimeError as error:
            reason = first_line(error).rpartition("failed: ")[2]
            raise UserError(
                f"{path} cannot be written ({reason}): make room for it, or search without --faiss"
            ) from error
    write_json(about, _describe(index))
    return Graph(graph)


def _describe(index: Index) -> dict[str, Any]:
    """A description of a graph's index and settings, stored as JSON."""
    return {
        "content": index.content,
        "rows": len(index),
        "width": index.info.width,
        "neighbours": _NEIGHBOURS,
        "look": _LOOK_BUILD,
    }
