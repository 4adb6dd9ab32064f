"""The best of many candidates, collected while scores arrive in tiles; with numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LOW = np.int64(0x7FFF_FFFF)
_RIVAL = np.int64(1 << 31)
_NOTHING = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Nearest:
    """The top hits of Q queries, best first: ids (Q, K), rows of the other table, and scores (Q,
    K).

    Among equal scores, wrong answers come before correct ones, then lower rows before higher ones,
    so a correct answer whose rank (from 0) is below K is at that place.
    """

    ids: np.ndarray
    scores: np.ndarray


class NearestKeeper:
    """Keeps the K best of every query; K is at most the number of candidates."""

    def __init__(self, queries: int, *, keep: int, candidates: int) -> None:
        self._keys = np.full((queries, min(keep, candidates)), _NOTHING)
        self._floor = np.full(queries, -np.inf, np.float32)

    def add(
        self,
        queries: slice | np.ndarray,
        scores: np.ndarray,
        ids: np.ndarray,
        own: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Add scores (R, C) of some queries with the candidates `ids` (C,); `own` pairs are
        correct."""
        right = np.zeros(scores.shape, np.bool_)
        right[own] = True
        # After a few tiles, almost no candidate is as good as the worst kept one.
        rows, columns = np.nonzero(scores >= self._floor[queries, None])
        keys = make_keys(scores[rows, columns], ids[columns], right[rows, columns])
        both = np.concatenate([self._keys[queries], _spread(keys, rows, len(scores))], axis=1)
        width = self._keys.shape[1]
        both.partition(both.shape[1] - width, axis=1)
        kept = both[:, -width:]
        self._keys[queries] = kept
        full = kept[:, 0] != _NOTHING
        self._floor[queries] = np.where(full, _read_scores(kept[:, 0]), -np.inf)

    def result(self) -> Nearest:
        """The hits, sorted."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        return Nearest(_LOW - (keys & _LOW), _read_scores(keys))


def make_keys(scores: np.ndarray, ids: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Integer keys (C,) in the order of float32 scores (C,), with ties as in `Nearest`.

    A key contains the score's bits, whether the candidate is wrong, and its id. No two are equal,
    so the result does not depend on the search method.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # -0 equals 0, and so must its bits
    wrong = np.where(right, np.int64(0), _RIVAL)
    return (_flip(bits).astype(np.int64) << 32) | wrong | (_LOW - ids)


def _read_scores(keys: np.ndarray) -> np.ndarray:
    return _flip((keys >> 32).astype(np.int32)).view(np.float32)


def _flip(bits: np.ndarray) -> np.ndarray:
    """Map the bits of float32 to integers of the same order, and back."""
    return bits ^ ((bits >> 31) & np.int32(_LOW))


def _spread(keys: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Keys with ascending rows as a table, (count, maximum number of keys per row)."""
    each = np.bincount(rows, minlength=count)
    table = np.full((count, each.max(initial=0)), _NOTHING)
    starts = np.concatenate([[0], np.cumsum(each)[:-1]])
    table[rows, np.arange(len(keys)) - starts[rows]] = keys
    return table


@dataclass(frozen=True)
class Failure:
    """A query, the rank (from 0) of its best correct answer, and the rows and scores of its top
    hits."""

    query: int
    rank: int
    found: tuple[int, ...]
    scores: tuple[float, ...]


def find_failures(ranks: np.ndarray, nearest: Nearest, *, limit: int, top: int) -> list[Failure]:
    """The `limit` worst queries, worst first, with their first `top` answers.

    ranks (Q,) and nearest of one direction of `vse.evaluation.retrieval.Ranks`. Queries of the
    same rank stay in order.
    """
    failed = np.flatnonzero(ranks > 0)
    worst = failed[np.argsort(-ranks[failed], kind="stable")][:limit]
    return [
        Failure(
            query=int(query),
            rank=int(ranks[query]),
            found=tuple(nearest.ids[query, :top].tolist()),
            scores=tuple(nearest.scores[query, :top].tolist()),
        )
        for query in worst
    ]
