"""The records of a source, packed: a million take about ten megabytes."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc

from data.sources.record import ImageRecord, clean_record

# The plan of a run: which images, in which order, in which shard.
PLAN_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        # Location of the image in its source (see data/sources); null if file_name is enough.
        pa.field("locator", pa.binary()),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("image_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("image_url", pa.string()),
        pa.field("captions", pa.list_(pa.string())),
    ]
)
RECORD_SCHEMA = pa.schema([field for field in PLAN_SCHEMA if field.name not in ("shard", "row")])
# Only in memory: plans do not store columns, which are read again from the source.
_COLUMNS = pa.field("columns", pa.map_(pa.string(), pa.string()))
_PACKED_SCHEMA = RECORD_SCHEMA.append(_COLUMNS)
_CHUNK_ROWS = 8192
# Names and URLs compress well, and a chunk is read once or twice in a run of days.
_PACKING = pa.ipc.IpcWriteOptions(compression="zstd")


class Records(Sequence[ImageRecord]):
    """Records in order, packed in chunks and created on access.

    As Python objects they would take half a kilobyte each during the whole run.
    """

    def __init__(self, chunks: "_Chunks", start: int, stop: int) -> None:
        """Use `collect` or `from_batches`."""
        self._chunks = chunks
        self._start = start
        self._stop = stop

    @classmethod
    def collect(cls, records: Iterable[ImageRecord]) -> "Records":
        """Pack an iterable of records; texts that cannot be stored are cleaned."""
        if isinstance(records, Records):
            return records
        return cls.from_batches(_make_batches(records))

    @classmethod
    def from_batches(cls, batches: Iterable[pa.RecordBatch]) -> "Records":
        """Pack Arrow's record batches, which have the columns of RECORD_SCHEMA."""
        chunks = _Chunks(batches)
        return cls(chunks, 0, len(chunks))

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> "Records": ...

    def __getitem__(self, index: int | slice) -> "ImageRecord | Records":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError("records are cut in one piece")
            return Records(self._chunks, self._start + start, self._start + max(start, stop))
        place = range(self._start, self._stop)[index]
        return next(iter(Records(self._chunks, place, place + 1)))

    def __iter__(self) -> Iterator[ImageRecord]:
        for batch in self.iterate_batches():
            columns = [column.to_pylist() for column in batch.columns]
            for *known, captions, values in zip(*columns, strict=True):
                lists = (None if one is None else tuple(one) for one in (captions, values))
                yield ImageRecord(*known, *lists)

    def iterate_batches(self) -> Iterator[pa.RecordBatch]:
        """The records as Arrow batches, some thousands at a time."""
        return self._chunks.cut(self._start, self._stop)

    def list_ids(self) -> pa.ChunkedArray:
        """All sample_ids, as an Arrow column."""
        return self.list_column("sample_id")

    def list_column(self, name: str) -> pa.ChunkedArray:
        """All values of a column of RECORD_SCHEMA."""
        values = [batch.column(name) for batch in self.iterate_batches()]
        return pa.chunked_array(values, RECORD_SCHEMA.field(name).type)

    def find_repeat(self) -> tuple[ImageRecord, ImageRecord] | None:
        """The first two records of one sample_id, if there are any."""
        if pc.count_distinct(self.list_ids()).as_py() == len(self):
            return None
        seen: dict[str, ImageRecord] = {}
        for record in self:
            if record.sample_id in seen:
                return seen[record.sample_id], record
            seen[record.sample_id] = record
        raise AssertionError("no two are alike, and yet they are fewer")

    def select(self, known: "Records", *, among: bool, by: str = "sample_id") -> "Records":
        """Records whose value in the column `by` is `among` these values, or is not; in order."""
        values = self.list_column(by).combine_chunks()
        found = pc.is_in(values, value_set=known.list_column(by).combine_chunks())
        wanted = found if among else pc.invert(found)

        def filter_batches() -> Iterator[pa.RecordBatch]:
            start = 0
            for batch in self.iterate_batches():
                yield batch.filter(wanted.slice(start, batch.num_rows))
                start += batch.num_rows

        return Records.from_batches(filter_batches())


class _Chunks:
    """Packed batches and their offsets; the last one that was accessed is kept unpacked."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._packed: list[pa.Buffer] = []
        self._starts: list[int] = []
        self._count = 0
        self._last: tuple[int, pa.RecordBatch] | None = None
        for batch in batches:
            if batch.num_rows:
                self._starts.append(self._count)
                self._packed.append(_pack(_complete(batch)))
                self._count += batch.num_rows

    def __len__(self) -> int:
        return self._count

    def cut(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        number = bisect_right(self._starts, start) - 1
        while start < stop:
            batch, first = self._unpack(number), self._starts[number]
            end = min(stop, first + batch.num_rows)
            yield batch.slice(start - first, end - start)
            start, number = end, number + 1

    def _unpack(self, number: int) -> pa.RecordBatch:
        last = self._last
        if last is None or last[0] != number:
            with pa.ipc.open_stream(self._packed[number]) as reader:
                last = (number, reader.read_next_batch())
            self._last = last
        return last[1]


def _complete(batch: pa.RecordBatch) -> pa.RecordBatch:
    if _COLUMNS.name not in batch.schema.names:
        batch = batch.append_column(_COLUMNS, pa.nulls(batch.num_rows, _COLUMNS.type))
    return batch.select(_PACKED_SCHEMA.names)


def _pack(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_PACKING) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _make_batches(records: Iterable[ImageRecord]) -> Iterator[pa.RecordBatch]:
    cleaned = map(clean_record, records)
    while part := list(islice(cleaned, _CHUNK_ROWS)):
        columns = [[getattr(record, name) for record in part] for name in _PACKED_SCHEMA.names]
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, _PACKED_SCHEMA, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=_PACKED_SCHEMA)
