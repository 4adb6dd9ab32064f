"""Files of embeddings: equal to the library's, whole after a kill, and never mixed."""

from __future__ import annotations

import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import vse
from data.errors import UserError
from data.files.locks import keep_others_out
from data.sources import ImageRecord, Source
from data.sources.opening import SourceOptions, list_source, open_source
from data.tables.texts import TextRecord
from tests.processes import FORK
from tests.vse.models import write_model
from tests.vse.world import write_world
from tests.waiting import HANG_SECONDS
from vse.runs.models import ModelIdentity, identify_model
from vse.search.build import (
    BuildResult,
    ImageEncoder,
    TextEncoder,
    build_index,
    find_finished,
    list_images,
    list_texts,
    record_source,
)
from vse.search.index import Index
from vse.search.parts import PartFolder
from vse.search.schema import IndexInfo

BROKEN = "train/007.png"
PLAIN = SourceOptions()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """world/ with one broken picture, and a model."""
    folder = tmp_path_factory.mktemp("index")
    write_world(folder / "world", train=20, val=2, test=2)
    (folder / "world" / BROKEN).write_bytes(b"no image")
    write_model(folder / "model", folder / "world")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> vse.Embedder:
    torch.set_num_threads(1)
    return vse.load(place / "model")


def find(images: str, options: SourceOptions) -> tuple[Source, tuple[ImageRecord, ...]]:
    source = open_source(images, options)
    return source, list_source(source, options).records


def build_images(
    model: vse.Embedder,
    images: str,
    out: Path,
    *,
    on_item: Any = lambda done: None,
    part_size: int = 5,
    options: SourceOptions = PLAIN,
    **about: Any,
) -> BuildResult:
    source, records = find(images, options)
    assert model.folder is not None
    info = IndexInfo.of(
        identify_model(model.folder, name="model"),
        kind="images",
        given=images,
        listing=list_images(records),
        source=record_source(source, records),
        **about,
    )
    return build_index(
        out,
        info,
        lambda: ImageEncoder(model, info, source, records, batch_size=4, workers=2),
        total=len(records),
        part_size=part_size,
        on_item=on_item,
        warn=pytest.fail,
    )


def vectors_of(path: Path) -> np.ndarray:
    return np.vstack(pq.read_table(path).column("embedding").to_numpy())


def test_rows_are_the_library_s_embeddings(
    place: Path, model: vse.Embedder, tmp_path: Path
) -> None:
    seen: list[int] = []
    out = tmp_path / "a.parquet"
    result = build_images(model, str(place / "world"), out, on_item=seen.append)
    assert (result.rows, result.already, seen[0], seen[-1]) == (23, False, 0, 24)
    assert seen == sorted(seen)
    [lost] = result.left_out
    assert lost["file_name"] == BROKEN and lost["error"].startswith("not an image")
    table = pq.read_table(out)
    names = table.column("file_name").to_pylist()
    assert names == sorted(set(names)) and BROKEN not in names
    expected = model.encode_image([place / "world" / name for name in names])
    np.testing.assert_allclose(vectors_of(out), expected, rtol=1e-5, atol=1e-6)
    assert table.schema.field("embedding").type.list_size == 32
    said = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert (said["d2s.model"], said["d2s.px"], said["d2s.normalised"]) == ("model", "16", "true")
    assert len(said["d2s.weights_sha256"]) == 64 and said["d2s.kind"] == "images"
    assert not out.with_name("a.parquet.parts").exists()


def test_texts_and_rows_without_one(place: Path, model: vse.Embedder, tmp_path: Path) -> None:
    long = "a red square on blue " * 30
    texts = ["a red square", None, "", "blue", long]
    records = [TextRecord(str(i), t) for i, t in enumerate(texts)]
    assert model.folder is not None
    info = IndexInfo.of(
        identify_model(model.folder, name="model"),
        kind="texts",
        given="x.txt",
        listing=list_texts(records),
        stored="float16",
    )
    result = build_index(
        tmp_path / "t.parquet",
        info,
        lambda: TextEncoder(model, info, records, batch_size=2),
        total=5,
        part_size=3,
        on_item=lambda done: None,
        warn=pytest.fail,
    )
    assert [(lost["id"], lost["error"]) for lost in result.left_out] == [
        ("1", "no text"),
        ("2", "no text"),
    ]
    found = vectors_of(tmp_path / "t.parquet")
    assert found.dtype == np.float16
    expected = model.encode_text(["a red square", "blue", long])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    index = Index(tmp_path / "t.parquet")
    assert (result.rows, index.cut) == (3, 1)
    assert [row["text"] for row in index.read_rows([1, 0])] == ["blue", "a red square"]
    (start, block), _ = index.blocks()
    assert start == 0 and block.dtype == np.float32


@pytest.fixture
def sources(place: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same pictures in a tar file and in a Parquet file."""
    paths = sorted((place / "world/train").iterdir())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in paths:
            archive.add(path, path.name)
    rows = [{"image": {"bytes": path.read_bytes(), "path": path.name}} for path in paths]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    yield {name: str(tmp_path / name) for name in ("a.tar", "a.parquet", "list.txt")}


def test_any_source_gives_the_same_vectors(
    place: Path, model: vse.Embedder, sources: dict[str, str], tmp_path: Path
) -> None:
    found = []
    for number, images in enumerate([str(place / "world/train"), *sources.values()]):
        out = tmp_path / f"{number}.parquet"
        assert len(build_images(model, images, out).left_out) == 1
        found.append(vectors_of(out))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_streamed_data_set_goes_on_where_it_was(
    place: Path, model: vse.Embedder, sources: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    Path(sources["a.parquet"]).rename(tmp_path / "set/train.parquet")
    images = f"hf:{tmp_path / 'set'}"

    def stop(done: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    out, options = tmp_path / "s.parquet", SourceOptions(streaming=True)
    with pytest.raises(KeyboardInterrupt):
        build_images(model, images, out, on_item=stop, options=options)
    result = build_images(model, images, out, options=options)
    assert (result.resumed, result.rows, len(result.left_out)) == (10, 19, 1)
    build_images(model, str(place / "world/train"), tmp_path / "f.parquet")
    np.testing.assert_array_equal(vectors_of(out), vectors_of(tmp_path / "f.parquet"))


@pytest.mark.parametrize("instead", [None, b"<!DOCTYPE html><html>Please log in</html>"])
def test_a_disk_that_is_gone_stops_the_run(
    model: vse.Embedder, tmp_path: Path, instead: bytes | None
) -> None:
    """Also one that answers with something else than images."""
    write_world(tmp_path / "world", train=140, val=1, test=1)
    out = tmp_path / "a.parquet"

    def take_away(done: int) -> None:
        if done == 70:
            (tmp_path / "world").rename(tmp_path / "elsewhere")
            for path in (tmp_path / "elsewhere").rglob("*.png") if instead else ():
                place = tmp_path / "world" / path.relative_to(tmp_path / "elsewhere")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(instead or b"")

    gone = "none of .* images starting at .* check the disk or the network"
    with pytest.raises(UserError, match=gone):
        build_images(model, str(tmp_path / "world"), out, on_item=take_away, part_size=70)
    shutil.rmtree(tmp_path / "world", ignore_errors=True)
    (tmp_path / "elsewhere").rename(tmp_path / "world")
    result = build_images(model, str(tmp_path / "world"), out, part_size=70)
    assert (result.resumed, result.rows) == (70, 142)


@pytest.mark.parametrize("part_size", [32, 50])
def test_images_of_an_outage_are_read_again(
    model: vse.Embedder, tmp_path: Path, part_size: int
) -> None:
    """It begins within a part and ends after others."""
    write_world(tmp_path / "world", train=140, val=1, test=1)
    out, world = tmp_path / "a.parquet", str(tmp_path / "world")
    lost = sorted((tmp_path / "world/train").iterdir())[60:]

    def begin(done: int) -> None:
        for path in lost if done == 0 else ():
            path.rename(f"{path}.away")

    with pytest.raises(UserError, match="none of .* starting at train/060.png"):
        build_images(model, world, out, on_item=begin, part_size=part_size)
    for path in lost:
        Path(f"{path}.away").rename(path)
    result = build_images(model, world, out, part_size=part_size)
    assert (result.resumed, result.rows, result.left_out) == (part_size, 142, ())


def test_broken_images_before_intact_ones_are_left_out(model: vse.Embedder, tmp_path: Path) -> None:
    """However many in a row, as in a truncated archive: the source is there."""
    write_world(tmp_path / "world", train=80, val=1, test=1)
    for path in sorted((tmp_path / "world/train").iterdir())[:70]:
        path.write_bytes(b"no image")
    result = build_images(model, str(tmp_path / "world"), tmp_path / "a.parquet", part_size=82)
    assert (result.rows, len(result.left_out)) == (12, 70)


def test_fewer_images_none_of_which_can_be_read_make_no_index(
    model: vse.Embedder, tmp_path: Path
) -> None:
    write_world(tmp_path / "world", train=3, val=1, test=1)
    for path in (tmp_path / "world").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of 5 images .*not an image"):
        build_images(model, str(tmp_path / "world"), tmp_path / "a.parquet", part_size=2)
    assert not (tmp_path / "a.parquet").exists()


def _build_and_die(place: Path, out: Path) -> None:
    torch.set_num_threads(1)

    def die(done: int) -> None:
        if done == 13:
            os.kill(os.getpid(), signal.SIGKILL)

    build_images(vse.load(place / "model"), str(place / "world"), out, on_item=die)


def test_killed_and_run_again_it_is_the_same_file(
    place: Path, model: vse.Embedder, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    build_images(model, str(place / "world"), whole)
    process = FORK.Process(target=_build_and_die, args=(place, cut))
    process.start()
    process.join(timeout=HANG_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert not cut.exists()
    parts = sorted(path.name for path in tmp_path.glob("cut.parquet.parts/*.parquet"))
    assert parts == ["000000000000.parquet", "000000000005.parquet"]
    seen: list[int] = []
    result = build_images(model, str(place / "world"), cut, on_item=seen.append)
    assert (result.resumed, seen[0]) == (10, 10)
    assert cut.read_bytes() == whole.read_bytes()
    again = build_images(model, str(place / "world"), cut, on_item=seen.append)
    assert again.already and again.left_out == result.left_out and again.rows == 23


def test_a_damaged_part_is_made_again(place: Path, model: vse.Embedder, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    build_images(model, str(place / "world"), whole)

    def stop(done: int) -> None:
        if done == 23:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_images(model, str(place / "world"), cut, on_item=stop)
    path = tmp_path / "cut.parquet.parts/000000000005.parquet"
    # The last byte of the vectors: what lies between the pages has no checksum.
    group = pq.ParquetFile(path).metadata.row_group(0)
    [vectors] = [
        chunk
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.startswith("embedding")
    ]
    damaged = bytearray(path.read_bytes())
    damaged[vectors.data_page_offset + vectors.total_compressed_size - 1] ^= 255
    path.write_bytes(damaged)
    # In parts of another size now, so that older ones lie between the new ones.
    assert build_images(model, str(place / "world"), cut, part_size=7).resumed == 5
    np.testing.assert_allclose(vectors_of(cut), vectors_of(whole), rtol=1e-5, atol=1e-6)
    assert len(Index(cut)) == 23 and Index(cut).left_out == Index(whole).left_out


def test_other_settings_in_the_same_place_are_refused(
    place: Path, model: vse.Embedder, tmp_path: Path
) -> None:
    out = tmp_path / "a.parquet"

    def stop(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_images(model, str(place / "world"), out, on_item=stop)
    with pytest.raises(UserError, match="contains other embeddings .another listing"):
        build_images(model, str(place / "world/train"), out)
    with pytest.raises(UserError, match="another stored"):
        build_images(model, str(place / "world"), out, stored="float16")
    build_images(model, str(place / "world"), out)
    with pytest.raises(UserError, match=r"a.parquet contains other embeddings .another precision"):
        build_images(model, str(place / "world"), out, precision="bfloat16")
    out.write_bytes(b"something else")
    with pytest.raises(UserError, match="is no index: use another --out"):
        build_images(model, str(place / "world"), out)


@pytest.mark.parametrize("images", ["photos", "a.parquet"])
def test_other_images_under_the_same_names_are_refused(
    place: Path, model: vse.Embedder, sources: dict[str, str], tmp_path: Path, images: str
) -> None:
    shutil.copytree(place / "world/train", tmp_path / "photos")
    source, out = str(tmp_path / images), tmp_path / "idx/a.parquet"

    def change() -> None:
        photo, *others = sorted((tmp_path / "photos").iterdir())
        size = photo.stat().st_size
        other = next(path for path in others if path.stat().st_size != size)
        photo.write_bytes(other.read_bytes())
        rows = pq.read_table(sources["a.parquet"]).to_pylist()
        contents = [row["image"]["bytes"] for row in reversed(rows)]
        for row, content in zip(rows, contents, strict=True):
            row["image"]["bytes"] = content
        pq.write_table(pa.Table.from_pylist(rows), sources["a.parquet"])

    def stop(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_images(model, source, out, on_item=stop)
    change()
    with pytest.raises(UserError, match="a.parquet.parts contains .*another version of the files"):
        build_images(model, source, out)
    shutil.rmtree(tmp_path / "idx")
    build_images(model, source, out)
    change()
    with pytest.raises(UserError, match="a.parquet contains .*another version of the files"):
        build_images(model, source, out)


def test_only_what_is_recorded_of_a_source_is_compared(
    place: Path, model: vse.Embedder, tmp_path: Path
) -> None:
    out = tmp_path / "a.parquet"
    info = build_images(model, str(place / "world"), out).index.info

    def with_options(**options: Any) -> IndexInfo:
        return replace(info, source={**info.source, "options": options})

    # An earlier version recorded no options, and a shared index has no source.
    for older in (with_options(), replace(info, source={})):
        assert (older.differences(info), info.differences(older)) == ([], [])
    first = with_options(revision="a", split="train", columns={"image": "x"}, stamps=None)
    other = with_options(revision="b", split="val", columns={"image": "y"}, stamps=["z"])
    assert first.differences(other) == ["revision", "split", "image column"]


def test_two_at_once_are_refused(place: Path, model: vse.Embedder, tmp_path: Path) -> None:
    with (
        keep_others_out(tmp_path / "a.parquet.parts", warn=pytest.fail),
        pytest.raises(UserError, match="another process is embedding in"),
    ):
        build_images(model, str(place / "world"), tmp_path / "a.parquet")


def test_a_model_without_numbers_is_refused(place: Path, tmp_path: Path) -> None:
    model = vse.load(place / "model")
    with torch.no_grad():
        model.model.image.fc.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="embeddings with NaN or infinity"):
        build_images(model, str(place / "world"), tmp_path / "a.parquet")


def test_the_fingerprint_knows_model_settings_and_tokenizer(place: Path, tmp_path: Path) -> None:
    same = identify_model(place / "model", name="x")
    other = write_model(tmp_path / "other", place / "world", seed=1)
    larger = write_model(tmp_path / "larger", place / "world", image={"px": 24})
    prints = {identify_model(folder, name="x").fingerprint for folder in (other, larger)}
    assert len(prints | {same.fingerprint}) == 3
    # The architecture alone: same weights, read at another size.
    moved = identify_model(larger, name="x")
    assert (moved.weights_sha256 == same.weights_sha256, moved.px) == (True, 24)
    vse.load(place / "model").save_pretrained(tmp_path / "shared")
    assert identify_model(tmp_path / "shared", name="x") == same
    with pytest.raises(UserError, match="contains no trained model"):
        identify_model(tmp_path, name="x")


def test_an_index_of_another_model_is_refused(
    place: Path, model: vse.Embedder, tmp_path: Path
) -> None:
    build_images(model, str(place / "world"), tmp_path / "a.parquet")
    index = Index(tmp_path / "a.parquet")
    mine = identify_model(place / "model", name="mine")
    index.check_model(mine)
    stranger = ModelIdentity("runs/new", "f" * 64, "other", 16, 32)
    with pytest.raises(UserError, match="another model .*--model model, or embed again with"):
        index.check_model(stranger)
    with pytest.raises(UserError, match="model/ has changed since .* --out NEW.*, or delete"):
        index.check_model(replace(stranger, name="model/"))
    with pytest.raises(UserError, match="the same weights with other settings"):
        index.check_model(replace(mine, fingerprint="other"))


def test_a_strange_file_is_no_index(tmp_path: Path) -> None:
    pq.write_table(pa.table({"embedding": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="contains no embeddings of d2s"):
        Index(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="does not exist: create one with `d2s embed`"):
        Index(tmp_path / "b.parquet")


def test_a_damaged_index_is_one_line(place: Path, model: vse.Embedder, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    index = build_images(model, str(place / "world"), out).index
    column = pq.ParquetFile(out).metadata.row_group(0).column
    for number in range(pq.ParquetFile(out).metadata.num_columns):
        name, content = column(number).path_in_schema, bytearray(out.read_bytes())
        content[column(number).data_page_offset + column(number).total_compressed_size - 9] ^= 255
        (tmp_path / "b.parquet").write_bytes(bytes(content))
        damaged = Index(tmp_path / "b.parquet")
        with pytest.raises(UserError, match="damaged .*delete it"):
            list(damaged.blocks()) if "embedding" in name else damaged.read_rows(range(len(index)))
    (tmp_path / "x.txt").write_text("mine")
    with pytest.raises(UserError, match="is there and is no index: use another --out"):
        find_finished(tmp_path / "x.txt", index.info)


def test_unfinished_parts_never_make_a_file(place: Path, tmp_path: Path) -> None:
    identity = identify_model(place / "model", name="model")
    info = IndexInfo.of(identity, kind="texts", given="x", listing="y")
    assert find_finished(tmp_path / "a.parquet", info) is None
    with pytest.raises(ValueError, match="ends at item 0 of 3"):
        PartFolder(tmp_path / "a.parquet", info).finish(3)
    assert not (tmp_path / "a.parquet").exists()
