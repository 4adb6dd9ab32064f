"""Records packed: the same as a list of them, in a fraction of the memory."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from data.sources.record import ImageRecord, make_sample_id
from data.sources.records import Records

ROOT = Path(__file__).resolve().parents[3]


def make_records(count: int) -> list[ImageRecord]:
    """With every kind of value there is, and with none."""
    return [
        ImageRecord(
            make_sample_id(b"%d" % number),
            f"photos/{number:012d}.jpg",
            locator=b"path:\xff%d" % number if number % 3 else None,
            image_id=str(number) if number % 2 else None,
            split="test" if number % 5 else None,
            image_url=f"http://x/{number}" if number % 7 else None,
            captions=(("one", "two"), (), None)[number % 3],
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 8192, 20_000])
def test_they_are_what_they_were_made_of(count: int) -> None:
    made = make_records(count)
    records = Records.collect(iter(made))
    assert len(records) == count and list(records) == made
    assert Records.collect(records) is records
    for part in (slice(0, 5), slice(8190, 8195), slice(-3, None), slice(7, 3), slice(None)):
        assert list(records[part]) == made[part], part
        assert records[part].list_ids().to_pylist() == [record.sample_id for record in made[part]]
    inner = slice(100, 9000)
    assert list(records[inner][50:8150]) == made[inner][50:8150]
    for index in (0, -1, 8191) if count > 8191 else ():
        assert records[index] == made[index]
    with pytest.raises(IndexError):
        records[count]


def test_a_million_fit_into_a_tenth_of_a_gigabyte() -> None:
    made = make_records(50_000)
    before = pa.total_allocated_bytes()
    records = Records.collect(made)
    assert list(records)[-1] == made[-1]
    assert (pa.total_allocated_bytes() - before) / len(made) < 100


def test_ids_that_repeat_and_ids_that_are_new() -> None:
    made = make_records(30)
    assert Records.collect(made).find_repeat() is None
    again = Records.collect([*made, made[4], made[2]]).find_repeat()
    assert again == (made[4], made[4])
    records, known = Records.collect(made), Records.collect(made[5:])
    assert list(records.select(known, among=False)) == made[:5]
    assert list(records.select(known, among=True)) == made[5:]
    assert len(Records.collect([]).select(records, among=False)) == 0
    # More than are unpacked together.
    many = make_records(20_000)
    rest = Records.collect(many).select(Records.collect(many[9_000:]), among=False)
    assert list(rest) == many[:9_000]
    assert len(rest.select(Records.collect(many), among=False)) == 0


def test_what_cannot_be_stored_is_cleaned() -> None:
    odd = ImageRecord("a", "half \ud83d", captions=("a \udcff",))
    (kept,) = Records.collect([odd])
    assert (kept.file_name, kept.captions) == ("half ?", ("a ?",))


def test_a_decoding_process_needs_none_of_this() -> None:
    """Each would take a moment and some megabytes more."""
    heavy = ("pyarrow", "numpy", "datasets", "torch")
    code = f"import sys, captioner.decode.worker; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
