"""The rank of every query, as a Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.files.atomic import replace_whole
from vse.evaluation.positives import Ids
from vse.evaluation.retrieval import Ranks
from vse.evaluation.top_k import Nearest

TOP = 10
RANKS_SCHEMA = pa.schema(
    [
        pa.field("direction", pa.string(), nullable=False, metadata={"values": "i2t, t2i"}),
        pa.field("query_id", pa.string(), nullable=False),
        # The image's file name, or the caption itself.
        pa.field("query", pa.string(), nullable=False),
        pa.field(
            "rank",
            pa.int64(),
            nullable=False,
            metadata={
                "base": "0",
                "meaning": (
                    "rank of the best correct answer, 0 is best; equal scores count before it"
                ),
            },
        ),
        pa.field("retrieved_ids", pa.list_(pa.string()), nullable=False),
        # Cosines, in the order of the ids.
        pa.field("retrieved_scores", pa.list_(pa.float32()), nullable=False),
    ]
)


def write_ranks(
    path: Path,
    ranks: Ranks,
    *,
    ids: Ids,
    names: Sequence[str],
    captions: Sequence[str],
    about: Mapping[str, str],
) -> None:
    """Write one row per query: first the images (i2t), then the captions (t2i), in the order of the
    split.

    Args:
        ranks: with the top hits.
        names: (N,) file names; captions: (M,).
        about: the file's metadata, such as the model and the input size.
    """
    assert ranks.texts is not None and ranks.images is not None
    ways = [
        _tabulate("i2t", ids.images, names, ranks.i2t, ranks.texts, ids.texts),
        _tabulate("t2i", ids.texts, captions, ranks.t2i, ranks.images, ids.images),
    ]
    table = pa.concat_tables(ways).replace_schema_metadata(dict(about))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _tabulate(
    direction: str,
    ids: Sequence[str],
    queries: Sequence[str],
    ranks: np.ndarray,
    found: Nearest,
    found_ids: Sequence[str],
) -> pa.Table:
    count, width = found.ids.shape
    offsets = pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32))
    retrieved = _write_texts(found_ids).take(pa.array(found.ids.ravel()))
    columns = [
        pa.array([direction] * count, pa.string()),
        _write_texts(ids),
        _write_texts(queries),
        pa.array(ranks, pa.int64()),
        pa.ListArray.from_arrays(offsets, retrieved),
        pa.ListArray.from_arrays(offsets, pa.array(found.scores.ravel(), pa.float32())),
    ]
    return pa.Table.from_arrays(columns, schema=RANKS_SCHEMA)


def _write_texts(texts: Sequence[str]) -> pa.Array:
    """Lone surrogates, which UTF-8 cannot represent, become question marks."""
    return pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.string())
