"""An index as others get it: the same rows and vectors, and no word of where it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vse.search.index import Index
from vse.search.parts import CONTENT, CUT, LEFT_OUT, open_writer


def write_shared(index: Index, path: Path, *, model: str) -> None:
    """Write the index without the places of its source; the same index gives the same bytes.

    Args:
        model: how the model is called where the index will be.
    """
    info = replace(index.info, model=model, given=Path(index.info.given).name, source={})
    schema = info.schema.with_metadata(info.to_metadata())
    # Where a file lies in an archive or on a disk is of use to no one else.
    nowhere = schema.get_field_index("locator")
    file = pq.ParquetFile(index.path, page_checksum_verification=True)
    with open_writer(path, schema) as writer:
        for number in range(file.num_row_groups):
            group = file.read_row_group(number)
            blank = pa.nulls(len(group), pa.binary())
            group = group.set_column(nowhere, schema.field(nowhere), blank)
            writer.write_table(group.cast(schema), row_group_size=max(1, len(group)))
        writer.add_key_value_metadata({LEFT_OUT: "[]", CUT: str(index.cut), CONTENT: index.content})
