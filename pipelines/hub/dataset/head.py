"""The YAML head of the card, which describes the files to the Hub and `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# The Hub's viewer fails with row groups of about 286 MiB.
MOST_GROUP_BYTES = 200 * 2**20
_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
_LETTERS = {10**3: "K", 10**6: "M", 10**9: "B"}


@dataclass(frozen=True)
class Footers:
    """Totals from the shards' Parquet footers: rows, uncompressed bytes and file sizes."""

    schema: pa.Schema
    rows: int
    bytes: int
    file_bytes: int
    largest_group: int


def read_footers(paths: Sequence[Path]) -> Footers:
    """Read the footers and add them up.

    Raises:
        ValueError: the shards' schemas differ (`verify_run` would have said so).
    """
    rows = size = file_bytes = largest = 0
    schema: pa.Schema | None = None
    for path in paths:
        footer = pq.read_metadata(path)
        found = footer.schema.to_arrow_schema().remove_metadata()
        if schema is not None and not found.equals(schema):
            raise ValueError(f"{path} has different columns than the shards before it")
        schema = found
        groups = [footer.row_group(n).total_byte_size for n in range(footer.num_row_groups)]
        rows += footer.num_rows
        size += sum(groups)
        file_bytes += path.stat().st_size
        largest = max(largest, *groups) if groups else largest
    if schema is None:
        raise ValueError("there are no shards")
    return Footers(schema, rows, size, file_bytes, largest)


def write_head(
    run: Mapping[str, Any],
    footers: Footers,
    *,
    title: str,
    license: str,
    split: str,
    paths: Iterable[str],
    english: bool,
    sources: Sequence[str],
) -> str:
    """The YAML between the `---` lines.

    Args:
        run: run.json.
        split: the only split of all files.
        paths: the shards in the repository.
        english: whether the texts are English, by their flags.
        sources: data sets on the Hub with the images, OWNER/NAME.
    """
    # The import takes half a second.
    from datasets import Features
    from datasets.info import DatasetInfo, DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from huggingface_hub import DatasetCardData

    known: dict[str, Any] = {"language": ["en"]} if english else {}
    if sources:
        known["source_datasets"] = [f"extended|{name}" for name in sources]
    # Only files with the same total: files of an earlier state may still exist.
    patterns = list(dict.fromkeys(re.sub(r"-\d+-of-", "-*-of-", path) for path in paths))
    files = {"split": split, "path": patterns if len(patterns) > 1 else patterns[0]}
    card = DatasetCardData(
        license=license,
        pretty_name=title,
        task_categories=["image-to-text"],
        annotations_creators=["machine-generated"],
        size_categories=[_tell_size(footers.rows)],
        tags=_list_tags(run),
        configs=[{"config_name": "default", "data_files": [files]}],
        **known,
    )
    info = DatasetInfo(
        features=Features.from_arrow_schema(footers.schema),
        splits=SplitDict({split: SplitInfo(split, footers.bytes, footers.rows)}),
        download_size=footers.file_bytes,
        dataset_size=footers.bytes,
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card.to_yaml().strip()


def _list_tags(run: Mapping[str, Any]) -> list[str]:
    engine = (run.get("settings") or {}).get("engine")
    tags = ["synthetic", "dense-captions", "d2s-vse"]
    if "llava" in str(run.get("model")).lower():
        tags.append("llava")
    return [*tags, "vllm"] if engine == "vllm" else tags


def _tell_size(rows: int) -> str:
    """The Hub's size categories: n<1K, 1K<n<10K, ..., 100M<n<1B."""
    above = next((size for size in _SIZES if rows < size), None)
    if above is None:
        return "n>1B"
    return "n<1K" if above == 10**3 else f"{_shorten(above // 10)}<n<{_shorten(above)}"


def _shorten(number: int) -> str:
    unit = max(size for size in _LETTERS if size <= number)
    return f"{number // unit}{_LETTERS[unit]}"
