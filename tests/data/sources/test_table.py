"""Parquet files with images, or with the names of images, in them."""

import base64
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.decode.pool import _PROGRAM
from captioner.run.session import caption
from data.errors import UserError
from data.images import ImageError
from data.sources.columns import Columns
from data.sources.opening import SourceOptions
from data.sources.reader import ImageReader
from tests.data.sources.listing import list_images, read_all, write_table

# A decoding process in which no table can be opened.
BLIND = "import sys; sys.modules['pyarrow'] = None; "


def test_parquet_with_images(tmp_path: Path, photos: dict[str, bytes]) -> None:
    captions = [[f"of {name}", "again"] for name in photos]
    write_table(tmp_path / "a.parquet", photos, image_id=list(range(6)), captions=captions)
    source, listing = list_images(tmp_path / "a.parquet")
    assert [record.file_name for record in listing.records] == list(photos)
    assert [record.image_id for record in listing.records] == list("012345")
    assert listing.records[1].captions == ("of 0001.png", "again")
    assert read_all(source, listing.records) == list(photos.values())
    # In any order, over the borders of row groups.
    assert read_all(source, listing.records[::-1]) == list(photos.values())[::-1]


def test_parquet_with_columns_of_its_own_names(tmp_path: Path, photos: dict[str, bytes]) -> None:
    table = {"raw": list(photos.values()), "said": [f"of {name}" for name in photos]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"no image column \(its columns are raw, said\)"):
        list_images(tmp_path / "b.parquet")
    options = SourceOptions(columns=Columns(image="raw", captions="said"))
    source, listing = list_images(tmp_path / "b.parquet", options)
    assert listing.records[2].captions == ("of 0002.png",)
    assert len({record.sample_id for record in listing.records}) == 6
    assert read_all(source, listing.records) == list(photos.values())
    wrong = SourceOptions(columns=Columns(image="jpg"))
    with pytest.raises(UserError, match="has no column 'jpg'; it has raw, said"):
        list_images(tmp_path / "b.parquet", wrong)


def test_the_captioner_s_texts_in_an_export_are_not_human_captions(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    """A column of nulls has no type after pandas has rewritten the table."""
    texts = ["The model's."] * 6
    own = {"run_id": ["r"] * 6, "status": ["ok"] * 6, "caption": texts, "text": texts}
    write_table(tmp_path / "own.parquet", photos, captions=pa.nulls(6), **own)
    _, listing = list_images(tmp_path / "own.parquet")
    assert {record.captions for record in listing.records} == {None}
    asked = SourceOptions(columns=Columns(captions="caption"))
    _, listing = list_images(tmp_path / "own.parquet", asked)
    assert {record.captions for record in listing.records} == {("The model's.",)}
    write_table(tmp_path / "own.parquet", photos, captions=[["A person's."]] * 6, **own)
    _, listing = list_images(tmp_path / "own.parquet")
    assert {record.captions for record in listing.records} == {("A person's.",)}
    write_table(tmp_path / "other.parquet", photos, captions=pa.nulls(6), caption=texts)
    _, listing = list_images(tmp_path / "other.parquet")
    assert {record.captions for record in listing.records} == {("The model's.",)}


def test_two_rows_of_one_id_are_refused(tmp_path: Path, photos: dict[str, bytes]) -> None:
    write_table(tmp_path / "a.parquet", photos, image_id=[1, 2, 3, 1, 5, 6])
    with pytest.raises(UserError, match="same name or id: 0000.png and 0003.*--id-column none"):
        list_images(tmp_path / "a.parquet")
    # What the line says works, where no other column could be the one.
    options = SourceOptions(columns=Columns(id="none"))
    source, listing = list_images(tmp_path / "a.parquet", options)
    assert [record.image_id for record in listing.records] == [None] * 6
    assert len({record.sample_id for record in listing.records}) == 6
    assert read_all(source, listing.records) == list(photos.values())
    write_table(tmp_path / "b.parquet", photos, image_id=[1] * 6, none=[1, 2, 3, 4, 5, 6])
    _, listing = list_images(tmp_path / "b.parquet", options)
    assert [record.image_id for record in listing.records] == ["1", "2", "3", "4", "5", "6"]


def test_a_table_cannot_name_pictures_elsewhere(tmp_path: Path, photos: dict[str, bytes]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(photos["0001.png"])
    secret = tmp_path / "photos" / "0000.png"
    paths = ["own.png", str(secret), "../photos/0000.png", str(tmp_path / "set" / "own.png")]
    table = pa.table({"image": paths, "file_name": [f"{n}.png" for n in range(4)]})
    pq.write_table(table, tmp_path / "set" / "x.parquet")
    source, listing = list_images(tmp_path / "set" / "x.parquet")
    reader = ImageReader(source)
    own = photos["0001.png"]
    for record, content in zip(listing.records, [own, None, None, own], strict=True):
        if content is None:
            with pytest.raises(ImageError, match="names a file elsewhere"):
                reader.read(record.address)
        else:
            assert reader.read(record.address) == content


def test_columns_that_cannot_be_what_they_are_named_for(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    counts, nested = list(range(6)), [[{"raw": "x"}]] * 6
    write_table(tmp_path / "a.parquet", photos, count=counts, nested=nested, text=["x"] * 6)
    for columns, message in (
        (
            Columns(captions="count"),
            "column 'count' of .* does not contain texts, or lists of texts",
        ),
        (
            Columns(captions="nested"),
            "'nested' of .* does not contain texts.* another --caption-column",
        ),
        (Columns(captions="image"), "does not contain texts"),
        (Columns(id="nested"), "does not contain texts or numbers: specify another --id-column"),
        (Columns(image="count"), "does not contain images: specify another --image-column"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            list_images(tmp_path / "a.parquet", SourceOptions(columns=columns))
        assert "\n" not in str(caught.value)


def test_texts_in_every_way_that_parquet_has(tmp_path: Path, photos: dict[str, bytes]) -> None:
    said = [f"of {name}" for name in photos]
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        write_table(tmp_path / "a.parquet", photos, caption=pa.array(said).cast(kind))
        _, listing = list_images(tmp_path / "a.parquet")
        assert [record.captions for record in listing.records] == [(text,) for text in said], kind
    for kind in (pa.large_list(pa.string()), pa.list_(pa.large_string())):
        write_table(tmp_path / "a.parquet", photos, captions=pa.array([[x] for x in said], kind))
        _, listing = list_images(tmp_path / "a.parquet")
        assert [record.captions for record in listing.records] == [(text,) for text in said], kind


def test_images_as_base64(tmp_path: Path, photos: dict[str, bytes]) -> None:
    contents = list(photos.values())
    plain = [base64.b64encode(content).decode() for content in contents]
    for column in (
        plain,
        [base64.urlsafe_b64encode(content).decode().rstrip("=") for content in contents],
        [f"data:image/png;base64,{text}" for text in plain],
        [base64.encodebytes(content) for content in contents],
        [{"bytes": text, "path": None} for text in plain],
    ):
        pq.write_table(pa.table({"image": column}), tmp_path / "b.parquet")
        source, listing = list_images(tmp_path / "b.parquet")
        assert read_all(source, listing.records) == contents
    pq.write_table(pa.table({"image": ["x" * 9999]}), tmp_path / "b.parquet")
    source, listing = list_images(tmp_path / "b.parquet")
    with pytest.raises(ImageError) as caught:
        read_all(source, listing.records)
    assert len(str(caught.value)) < 400


def test_base_names_that_repeat_are_told_apart_by_their_rows(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    contents = list(photos.values())
    images = [{"bytes": c, "path": f"{n % 3}.png"} for n, c in enumerate(contents)]
    pq.write_table(pa.table({"image": images}), tmp_path / "c.parquet", row_group_size=4)
    source, listing = list_images(tmp_path / "c.parquet")
    names = [record.file_name for record in listing.records]
    assert names[0] == "c.parquet/0/0/0.png" and names[5] == "c.parquet/1/1/2.png"
    assert any("0.png" in note for note in listing.notes)
    assert read_all(source, listing.records) == contents
    # The same as a data set of the library's.
    source, listing = list_images(f"hf:{tmp_path}")
    assert len({record.file_name for record in listing.records}) == 6
    assert read_all(source, listing.records) == contents


def test_a_table_that_became_shorter(tmp_path: Path, photos: dict[str, bytes]) -> None:
    write_table(tmp_path / "a.parquet", photos)
    source, listing = list_images(tmp_path / "a.parquet")
    write_table(tmp_path / "a.parquet", {"0000.png": photos["0000.png"]})
    for record in (listing.records[1], listing.records[-1]):
        with pytest.raises(ImageError):
            read_all(source, (record,))


def test_ids_that_became_floats(tmp_path: Path, photos: dict[str, bytes]) -> None:
    write_table(tmp_path / "a.parquet", photos, image_id=[391895.0, 2.0, None, 4.5, 1e9, 0.0])
    _, listing = list_images(tmp_path / "a.parquet")
    ids = [record.image_id for record in listing.records]
    assert ids == ["391895", "2", None, "4.5", "1000000000", "0"]


def test_a_table_is_read_once_whoever_decodes(
    tmp_path: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reader takes each group of rows once, and the decoding processes none."""
    write_table(tmp_path / "a.parquet", photos)
    opened = []
    read = pq.ParquetFile.iter_batches

    def count(file: pq.ParquetFile, *args: object, **options: object) -> object:
        if options.get("columns") == ["image"]:
            opened.append(options["row_groups"])
        return read(file, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", count)
    monkeypatch.setattr("captioner.decode.pool._PROGRAM", BLIND + _PROGRAM)
    result = caption(
        model="any",
        engine="scripted",
        images=tmp_path / "a.parquet",
        out=tmp_path / "out",
        workers=3,
    )
    assert result.ok == 6 and opened == [[0], [1]]
