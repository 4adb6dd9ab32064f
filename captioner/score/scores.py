"""DIR/scores.parquet: CLIPScore and CHAIR of a run's texts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from captioner.score.chair import score_chair
from captioner.score.clip_score import CLIP_SCHEMA
from captioner.score.objects import ObjectWords
from data.dense.receipts import read_receipts
from data.files.atomic import replace_whole

CHAIR_SCHEMA = pa.schema(
    [
        # The text's CHAIRi; null if it mentions no object, or its image is not annotated.
        pa.field("chair_i", pa.float32()),
        # In the order of the text, with repetitions; null if the image is not annotated.
        pa.field("mentioned_objects", pa.list_(pa.string())),
        pa.field("hallucinated_objects", pa.list_(pa.string())),
    ]
)
SCORES_SCHEMA = pa.schema(
    [pa.field("sample_id", pa.string(), nullable=False), *CLIP_SCHEMA, *CHAIR_SCHEMA]
)
# The measurements, their settings and the shards, as JSON in the file's metadata.
METADATA_KEY = b"d2s.scores"
# The kinds of measurements, each with its own columns.
KINDS: Mapping[str, pa.Schema] = {"clip": CLIP_SCHEMA, "chair": CHAIR_SCHEMA}
_SHOWN_OBJECTS = 10


def name_scores(limit: int | None) -> str:
    """The file's name; scores of the first `limit` rows have another and do not replace it."""
    return "scores.parquet" if limit is None else f"scores-first-{limit}.parquet"


def measure_chair(
    texts: pa.Table, known: Sequence[frozenset[str] | None], words: ObjectWords
) -> pa.Table:
    """CHAIR of each row of `texts` (caption, captions) by the objects in its image, where they are
    known, as CHAIR_SCHEMA.
    """
    rows: list[dict[str, Any]] = []
    said = texts.select(["caption", "captions"]).to_pylist()
    for row, there in zip(said, known, strict=True):
        if there is None or row["caption"] is None:
            rows.append({})
            continue
        score = score_chair(row["caption"], there, words, captions=row["captions"] or ())
        rows.append(
            {
                "chair_i": score.share,
                "mentioned_objects": score.mentioned,
                "hallucinated_objects": score.hallucinated,
            }
        )
    return pa.Table.from_pylist(rows, schema=CHAIR_SCHEMA)


def describe_shards(directory: Path) -> dict[str, str]:
    """The finished shards of a run and their SHA-256, which tie scores to texts."""
    receipts = read_receipts(directory)
    return {receipts[index].shard: receipts[index].sha256 for index in sorted(receipts)}


def combine_scores(
    sample_ids: Sequence[str],
    measured: Mapping[str, pa.Table],
    about: Mapping[str, Any],
    *,
    earlier: pa.Table | None,
) -> pa.Table:
    """One table of SCORES_SCHEMA: new measurements, else those in `earlier`, else nulls.

    Args:
        measured: tables of KINDS.
        about: for the metadata: `shards`, and the settings of each measured kind.
        earlier: a table of SCORES_SCHEMA; only used if it has the same shards and rows.
    """
    columns: dict[str, Any] = {"sample_id": pa.array(sample_ids, pa.string())}
    told = dict(about)
    kept = read_about(earlier) if earlier is not None else {}
    if (
        earlier is None
        or kept.get("shards") != about["shards"]
        or earlier.column("sample_id").to_pylist() != list(sample_ids)
    ):
        kept = {}
    for kind, schema in KINDS.items():
        table = measured.get(kind)
        if table is None and kind in kept:
            table, told[kind] = earlier, kept[kind]
        for field in schema:
            nulls = pa.nulls(len(sample_ids), field.type)
            columns[field.name] = nulls if table is None else table.column(field.name)
    metadata = {METADATA_KEY: json.dumps(told, sort_keys=True).encode()}
    return pa.table(columns, schema=SCORES_SCHEMA).replace_schema_metadata(metadata)


def write_scores(path: Path, table: pa.Table) -> None:
    """Write the table atomically.

    Raises:
        UserError: the disk is full.
    """
    with replace_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_scores(path: Path) -> pa.Table | None:
    """The scores of a run; None if there are none in this format."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(SCORES_SCHEMA) else None


def read_about(table: pa.Table) -> dict[str, Any]:
    """The metadata of a table of scores; empty if there is none."""
    try:
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except (KeyError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def summarise_scores(table: pa.Table) -> dict[str, Any]:
    """The figures of a whole run: {"rows", "clip": {...} or None, "chair": {...} or None}."""
    about = read_about(table)
    return {
        "rows": table.num_rows,
        "clip": _summarise_clip(table) if "clip" in about else None,
        "chair": _summarise_chair(table) if "chair" in about else None,
    }


def _summarise_clip(table: pa.Table) -> dict[str, Any]:
    scores = table.column("clipscore").drop_null().to_numpy()
    worst = table.column("clipscore_min").drop_null().to_numpy()
    sentences = table.column("sentences").drop_null().to_numpy()
    cut = table.column("cut_sentences").drop_null().to_numpy()
    return {
        "texts": len(scores),
        "clipscore": float(scores.mean()) if len(scores) else None,
        "clipscore_p5": float(np.percentile(scores, 5)) if len(scores) else None,
        "clipscore_min": float(worst.mean()) if len(worst) else None,
        "sentences": int(sentences.sum()),
        "cut_sentences": int(cut.sum()),
        "errors": table.num_rows - table.column("clip_error").null_count,
    }


def _summarise_chair(table: pa.Table) -> dict[str, Any]:
    mentions = hallucinated = with_one = texts = 0
    absent: Counter[str] = Counter()
    for row in table.select(["mentioned_objects", "hallucinated_objects"]).to_pylist():
        if row["mentioned_objects"] is None:
            continue
        texts += 1
        mentions += len(row["mentioned_objects"])
        hallucinated += len(row["hallucinated_objects"])
        with_one += bool(row["hallucinated_objects"])
        absent.update(row["hallucinated_objects"])
    return {
        "texts": texts,
        "mentions": mentions,
        "hallucinated": hallucinated,
        "chair_i": hallucinated / mentions if mentions else None,
        "chair_s": with_one / texts if texts else None,
        "most_hallucinated": dict(absent.most_common(_SHOWN_OBJECTS)),
    }
