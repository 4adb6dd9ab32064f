"""Exact search: equal to the naive answer, whatever the blocks, ties by row."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.vse.indexes import WIDTH, unit, write_index
from vse.search.nearest import find_nearest, score_pairs


def draw(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    return unit(rng.standard_normal((count, width)))


def cut(vectors: np.ndarray, size: int) -> list[tuple[int, np.ndarray]]:
    return [(start, vectors[start : start + size]) for start in range(0, len(vectors), size)]


def naive(vectors: np.ndarray, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """All scores, one by one, and a full sort."""
    every = np.array([[float((q.astype(np.float64) * v).sum()) for v in vectors] for q in queries])
    rows = np.arange(len(vectors))
    order = np.array([np.lexsort((rows, -scores))[:top] for scores in every])
    return order, np.take_along_axis(every, order, axis=1)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("top", [1, 5, 200])
def test_equal_to_the_naive_answer_with_ties(size: int, top: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = draw(rng, 120, 48), draw(rng, 5, 48)
    # Copies of rows in other blocks, rows that differ in the last bit, and a query among the rows.
    vectors[[40, 90, 119]] = vectors[3]
    vectors[60:70] = np.nextafter(vectors[20:30], 2, dtype=np.float32)
    queries[0] = vectors[3]
    hits = find_nearest(cut(vectors, size), queries, top=top)
    rows, scores = naive(vectors, queries, top)
    np.testing.assert_array_equal(hits.rows, rows)
    np.testing.assert_array_equal(hits.scores, scores)
    assert hits.rows.shape == (5, min(top, 120))
    assert hits.rows[0, :4].tolist() == [3, 40, 90, 119][:top]


def test_a_collapsed_index_gives_the_first_rows() -> None:
    vectors = np.tile(draw(np.random.default_rng(1), 1, 32), (500, 1))
    hits = find_nearest(cut(vectors, 64), vectors[:2], top=6)
    np.testing.assert_array_equal(hits.rows, np.tile(np.arange(6), (2, 1)))


def test_many_queries_and_an_empty_index() -> None:
    rng = np.random.default_rng(2)
    vectors, queries = draw(rng, 50, 16), draw(rng, 300, 16)
    hits = find_nearest(cut(vectors, 20), queries, top=3)
    np.testing.assert_array_equal(hits.rows, naive(vectors, queries, 3)[0])
    assert find_nearest([], queries, top=3).rows.shape == (300, 0)


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(3)
    vectors, queries = draw(rng, 9000, 40), draw(rng, 2, 40)
    row = np.arange(9000)
    together = score_pairs(queries, vectors, row % 2, row)
    alone = [
        score_pairs(queries, vectors, row[i : i + 1] % 2, row[i : i + 1])[0] for i in (0, 8191)
    ]
    assert [together[0], together[8191]] == alone


# In a process of its own, whose memory nothing else has used.
_SEARCH = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from vse.search.nearest import find_nearest
from vse.search.index import Index
queries = np.load(sys.argv[1])
for path in sys.argv[2:]:
    print(find_nearest(Index(Path(path)).blocks(), queries, top=5).rows[:, 0].tolist())
print(pa.default_memory_pool().max_memory())
"""


def test_searching_a_file_holds_one_block_at_a_time(tmp_path: Path) -> None:
    vectors = draw(np.random.default_rng(4), 80_000, WIDTH)
    for name, part_size in (("parts", 1000), ("whole", 80_000)):
        write_index(tmp_path / name, vectors, part_size=part_size)
    np.save(tmp_path / "queries.npy", vectors[:3])
    command = [sys.executable, "-c", _SEARCH, "queries.npy", "parts", "whole"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *rows, most = done.stdout.splitlines()
    assert rows == ["[0, 1, 2]"] * 2
    # The file has 10 MB of vectors; a block of 8,192 rows is 1 MB, held encoded and decoded.
    assert 0 < int(most) < 7e6
