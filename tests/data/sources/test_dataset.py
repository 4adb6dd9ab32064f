"""Data sets on this machine, whole and streamed; tests/data/sources/test_hub.py has the Hub's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from captioner.decode.pool import _PROGRAM, Job
from captioner.decode.stream import attach_images
from captioner.run.session import caption
from data.dense.run import find_source, read_run
from data.errors import UserError
from data.images import ImageError
from data.sources import Source
from data.sources.columns import Columns
from data.sources.dataset import Rows
from data.sources.download import WebAddress
from data.sources.opening import SourceOptions
from data.sources.reader import ImageReader
from data.sources.records import Records
from data.tables.columns import attach_columns
from tests.data.sources.listing import list_images, make_dataset, read_all

_WITHOUT_DATASETS = "import sys; sys.modules['datasets'] = None; "


def attach_all(jobs: list[Job], source: Source) -> list[Job]:
    """With their bytes, however long those take."""
    return [job for job in attach_images(iter(jobs), source) if job is not None]


@pytest.mark.parametrize("kind", ["saved", "parquet folder", "streamed"])
def test_a_data_set(tmp_path: Path, photos: dict[str, bytes], kind: str) -> None:
    made = make_dataset(photos)
    if kind == "saved":
        made.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        made.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    options = SourceOptions(streaming=kind == "streamed")
    source, listing = list_images(f"hf:{tmp_path / 'set'}", options)
    assert [record.captions for record in listing.records] == [(f"of {n}",) for n in photos]
    if kind != "streamed":
        assert read_all(source, listing.records[::-1]) == list(photos.values())[::-1]
    # Read here, so that no decoding process opens the data set.
    jobs = [Job(number, record.address) for number, record in enumerate(listing.records)]
    wanted = [jobs[1], jobs[4], jobs[5]]
    given = attach_all(wanted, source)
    assert [job.key for job in given] == [1, 4, 5]
    assert [job.content for job in given] == [list(photos.values())[n] for n in (1, 4, 5)]


@pytest.mark.parametrize("kind", ["saved", "parquet folder"])
def test_a_data_set_is_opened_once_however_many_decode(
    tmp_path: Path, photos: dict[str, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its library is in this process alone, where one thread reads the rows in their order."""
    made = make_dataset(photos)
    if kind == "saved":
        made.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set").mkdir()
        made.to_parquet(tmp_path / "set" / "x.parquet")
    opened: list[list[int]] = []
    find = Rows.find

    class Counted(Rows):
        def __init__(self, source: Source) -> None:
            super().__init__(source)
            opened.append([])

        def find(self, row: int) -> bytes | WebAddress:
            opened[-1].append(row)
            return find(self, row)

    monkeypatch.setattr("data.sources.dataset.Rows", Counted)
    # A decoding process that read rows itself would find none.
    monkeypatch.setattr("captioner.decode.pool._PROGRAM", _WITHOUT_DATASETS + _PROGRAM)
    given: dict[str, Any] = {"model": "any", "engine": "scripted", "workers": 3}
    result = caption(images=f"hf:{tmp_path / 'set'}", out=tmp_path / "out", **given)
    assert result.ok == len(photos) and opened == [[*range(len(photos))]]


def test_rows_that_cannot_be_read_are_no_crash(tmp_path: Path, photos: dict[str, bytes]) -> None:
    make_dataset(photos).save_to_disk(tmp_path / "set")
    source, _ = list_images(f"hf:{tmp_path / 'set'}")
    (given,) = attach_all([Job(0, b"row:99")], source)
    assert isinstance(given.content, ImageError) and "fewer rows" in str(given.content)


def test_data_sets_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the data set nobody/nothing cannot be loaded"):
        list_images("hf:nobody/nothing")
    table = datasets.Dataset.from_dict({"text": ["a"]})
    table.save_to_disk(tmp_path / "text")
    with pytest.raises(UserError, match="has no image column"):
        list_images(f"hf:{tmp_path / 'text'}", SourceOptions(columns=Columns(captions="text")))


def test_a_folder_of_images_as_a_data_set(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """The library gives absolute paths then; they lie in the data set's own folder."""
    source, listing = list_images(f"hf:{tmp_path / 'photos'}")
    assert sorted(read_all(source, listing.records)) == sorted(photos.values())
    # Each by itself, side by side.
    jobs = [Job(number, record.address) for number, record in enumerate(listing.records)]
    assert attach_all(jobs, source) == jobs


def test_a_link_to_a_folder_of_images_is_a_data_set_with_the_same_names(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    (tmp_path / "link").symlink_to("photos")
    _, direct = list_images(f"hf:{tmp_path / 'photos'}")
    source, linked = list_images(f"hf:{tmp_path / 'link'}")
    assert linked.records == direct.records
    assert sorted(read_all(source, linked.records)) == sorted(photos.values())


def test_columns_are_found_by_row_or_by_file(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """Plans of earlier versions name the rows of a data set that was reached through a link."""
    source, listing = list_images(f"hf:{tmp_path / 'photos'}")
    for record in listing.records:
        assert record.locator.startswith(b"entry:")
    by_row = [replace(one, locator=b"row:%d" % row) for row, one in enumerate(listing.records)]
    for records in (listing.records, by_row):
        assert len(attach_columns(Records.collect(records), source, ["image"])) == len(photos)


def test_a_stream_can_be_read_again(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """Ranks take shards in an order of their own."""
    (tmp_path / "set").mkdir()
    make_dataset(photos).to_parquet(tmp_path / "set" / "x.parquet")
    source, listing = list_images(f"hf:{tmp_path / 'set'}", SourceOptions(streaming=True))
    jobs = [Job(number, record.address) for number, record in enumerate(listing.records)]
    order = [0, 1, 4, 5, 2, 3]
    given = attach_all([jobs[number] for number in order], source)
    assert [job.content for job in given] == [list(photos.values())[number] for number in order]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_of_json_that_names_files_or_addresses(
    tmp_path: Path, photos: dict[str, bytes], streaming: bool
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(photos["0000.png"])
    secret, rows = tmp_path / "photos" / "0001.png", tmp_path / "set" / "data.jsonl"
    options = SourceOptions(streaming=streaming)
    lines = [{"image": name, "text": "x"} for name in ("own.png", str(secret), "http://[::1]/x")]
    rows.write_text("\n".join(map(json.dumps, lines)))
    source, listing = list_images(f"hf:{tmp_path / 'set'}", options)
    assert listing.records[0].file_name == "own.png" and listing.records[0].captions == ("x",)
    assert read_all(source, listing.records[:1]) == [photos["0000.png"]]
    for record, message in zip(listing.records[1:], ("elsewhere", "a URL"), strict=True):
        with pytest.raises(ImageError, match=f"the row .*{message}"):
            read_all(source, (record,))
    rows.write_text(json.dumps(lines[2]))
    with pytest.raises(UserError, match="column image of the data set .* contains URLs"):
        list_images(f"hf:{tmp_path / 'set'}", options)


def test_a_data_set_that_lies_elsewhere_now(tmp_path: Path, photos: dict[str, bytes]) -> None:
    make_dataset(photos).save_to_disk(tmp_path / "set")
    caption(model="any", engine="scripted", images=f"hf:{tmp_path / 'set'}", out=tmp_path / "out")
    (tmp_path / "set").rename(tmp_path / "moved")
    found = find_source(read_run(tmp_path / "out"), where=tmp_path, images=tmp_path / "moved")
    reader = ImageReader(found)
    assert [reader.read(b"row:%d" % row) for row in range(6)] == list(photos.values())
    reader.close()


def test_options_that_a_saved_data_set_has_no_use_for(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    make_dataset(photos).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(test=make_dataset(photos)).save_to_disk(tmp_path / "several")
    assert len(list_images(f"hf:{tmp_path}/several", SourceOptions(split="test"))[1].records) == 6
    for name, option, options in (
        ("one", "--split", SourceOptions(split="test")),
        ("one", "--streaming", SourceOptions(streaming=True)),
        ("several", "--dataset-config", SourceOptions(config="x", split="test")),
    ):
        with pytest.raises(UserError, match=f"{option} cannot be used with .*{name}"):
            list_images(f"hf:{tmp_path}/{name}", options)
