"""The faiss graph: nearly always what exact search finds, and never that of another index."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from tests.vse.indexes import WIDTH, unit, write_index
from vse.search.graph import build_graph, name_graph, open_graph
from vse.search.index import Index
from vse.search.nearest import find_nearest


def draw(rng: np.random.Generator, count: int) -> np.ndarray:
    """Clusters, as embeddings have them."""
    centres = np.random.default_rng(7).standard_normal((20, WIDTH))
    return unit(centres[rng.integers(20, size=count)] + 0.6 * rng.standard_normal((count, WIDTH)))


def test_recall_against_exact_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = write_index(tmp_path / "a.parquet", draw(rng, 3000))
    # From elsewhere in the space, as the queries of the other tower are.
    queries = unit(draw(rng, 100) + 0.5 * rng.standard_normal(WIDTH) / WIDTH**0.5)
    seen: list[int] = []
    graph = build_graph(index, on_row=seen.append)
    assert seen[-1] == 3000
    exact = find_nearest(index.blocks(), queries, top=10)
    found = graph.find_nearest(queries, top=10)
    shared = [len({*a} & {*b}) for a, b in zip(found.rows, exact.rows, strict=True)]
    assert sum(shared) / 1000 >= 0.99
    same = found.rows == exact.rows
    np.testing.assert_array_equal(found.scores[same], exact.scores[same])
    assert (np.diff(found.scores, axis=1) <= 0).all()
    # Read back from the disk, mapped.
    again = open_graph(Index(tmp_path / "a.parquet"))
    assert again is not None
    np.testing.assert_array_equal(again.find_nearest(queries, top=10).rows, found.rows)
    assert graph.find_nearest(queries[:1], top=5000).rows.shape[1] <= 3000


def test_a_graph_of_other_vectors_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(1)
    index = write_index(path, draw(rng, 50))
    assert open_graph(index) is None
    build_graph(index, on_row=lambda done: None)
    assert open_graph(index) is not None
    path.unlink()
    assert open_graph(write_index(path, draw(rng, 50))) is None


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    index = write_index(tmp_path / "a.parquet", draw(np.random.default_rng(2), 50))
    build_graph(index, on_row=lambda done: None)
    name_graph(index.path).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="a.parquet.faiss is damaged: delete it"):
        open_graph(index)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    index = write_index(tmp_path / "a.parquet", draw(np.random.default_rng(4), 3000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(UserError, match="a.parquet.faiss cannot be written .*too large"):
            build_graph(index, on_row=lambda done: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert open_graph(index) is None and [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_without_faiss_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    index = write_index(tmp_path / "a.parquet", draw(np.random.default_rng(3), 5))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="pip install 'faiss-cpu"):
        build_graph(index, on_row=lambda done: None)
