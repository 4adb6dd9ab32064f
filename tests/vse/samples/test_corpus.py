"""Joining files, captions and dense text by name."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from data.dense import shards
from data.dense.receipts import append_receipt
from data.dense.schema import CAPTION_SCHEMA
from data.errors import UserError
from data.files.hashes import hash_bytes
from data.sparse.captions import read_captions
from tests.vse.world import dense_of, write_dense, write_world
from vse.samples.corpus import Corpus, CorpusSettings, build_corpus
from vse.samples.dense import read_dense


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_world(tmp_path / "world", train=10, val=3, test=3)
    return tmp_path / "world"


def join(images: Path, dense: Path | None, **settings: object) -> Corpus:
    source = read_captions(images / "dataset_world.json")
    return build_corpus(
        images,
        source,
        CorpusSettings(**{"max_missing": 0.3, **settings}),  # type: ignore[arg-type]
        dense=read_dense(dense) if dense else None,
    )


def test_text_belongs_to_its_image_whatever_the_order(images: Path, tmp_path: Path) -> None:
    texts = dense_of(images)
    backwards = dict(reversed(list(texts.items())))
    corpus = join(images, write_dense(tmp_path / "dense", images, backwards))
    assert corpus.counts() == {"train": 10, "val": 3, "test": 3}
    for samples in corpus.splits.values():
        for sample in samples:
            assert sample.dense == (texts[sample.name],)
            assert sample.path == images / sample.name and sample.path.is_file()
    assert corpus.notes == ()


def test_images_without_dense_text_are_left_out_of_training_and_counted(
    images: Path, tmp_path: Path
) -> None:
    texts: dict[str, str | None] = dict(dense_of(images))
    texts["train/002.png"] = None  # an error row
    texts["train/004.png"] = "  "
    del texts["train/007.png"], texts["val/001.png"]
    corpus = join(images, write_dense(tmp_path / "dense", images, texts))
    assert corpus.counts() == {"train": 7, "val": 3, "test": 3}
    names = {sample.name for sample in corpus.splits["train"]}
    assert not names & {"train/002.png", "train/004.png", "train/007.png"}
    assert [not sample.dense for sample in corpus.splits["val"]] == [False, True, False]
    assert any("left out 2 of 10 train images" in note for note in corpus.notes)
    assert any("no dense text" in note and "train/007.png" in note for note in corpus.notes)


def test_images_the_captioner_could_not_read_are_left_out_everywhere(
    images: Path, tmp_path: Path
) -> None:
    texts: dict[str, str | None] = {**dense_of(images), "test/001.png": None}
    dense = write_dense(
        tmp_path / "dense", images, texts, statuses={"test/001.png": "decode_error"}
    )
    with pytest.raises(UserError, match="1 of 3 test images .* could not read"):
        join(images, dense)
    assert join(images, dense, max_missing=0.5).counts()["test"] == 2


def test_too_many_missing_is_an_error_with_examples(images: Path, tmp_path: Path) -> None:
    texts = {k: v for k, v in dense_of(images).items() if not k.startswith("train/00")}
    texts["train/000.png"] = "one"
    dense = write_dense(tmp_path / "dense", images, texts)
    with pytest.raises(UserError) as caught:
        join(images, dense)
    message = str(caught.value)
    assert "9 of 10 train images" in message
    assert all(f"train/{number:03d}.png" in message for number in range(1, 10))
    assert "--set data.max_missing=0.9" in message


def test_what_is_missing_for_several_reasons_is_added_up(images: Path, tmp_path: Path) -> None:
    texts: dict[str, str | None] = {**dense_of(images), "train/002.png": None}
    del texts["train/004.png"]
    dense = write_dense(tmp_path / "dense", images, texts)
    with pytest.raises(UserError, match="2 of 10 train images .*train/002.png.*train/004.png"):
        join(images, dense, max_missing=0.15)
    assert join(images, dense, max_missing=0.2).counts()["train"] == 8


def test_dense_text_of_other_images_is_an_error_with_examples(images: Path, tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense", images, {"other/x.jpg": "text"})
    with pytest.raises(UserError, match="no dense text .* other/x.jpg.*--dense"):
        join(images, dense)


def test_captions_of_other_images_are_an_error(images: Path) -> None:
    for path in images.glob("*/*.png"):
        path.rename(path.with_name("n" + path.name))
    with pytest.raises(UserError, match="none of the 16 images .* train/000.png, found"):
        join(images, None)


def test_images_of_another_folder_are_others(images: Path, tmp_path: Path) -> None:
    """The names agree but for the folder: neither files nor dense text are joined by that."""
    below = {f"x/{name}": text for name, text in dense_of(images).items()}
    dense = write_dense(tmp_path / "dense", images, below)
    assert any("dense text: 16 of 16 matched by" in note for note in join(images, dense).notes)
    others = {n.replace("/", "s/"): text for n, text in dense_of(images).items()}
    with pytest.raises(UserError, match="no dense text .* folders must match"):
        join(images, write_dense(tmp_path / "others", images, others))
    for folder in ("train", "val", "test"):
        (images / folder).rename(images / f"{folder}s")
    with pytest.raises(UserError, match="none of the 16 images .* folders must match"):
        join(images, None)


def test_splits_that_are_not_asked_for_count_as_candidates(images: Path) -> None:
    (images / "val").rename(images / "vals")
    for file in (images / "vals").iterdir():
        file.rename(images / file.name)
    with pytest.raises(UserError, match="none of the 3 images"):
        join(images, None, splits=("val",))


def rename(images: Path, *, hashes: bool = True) -> dict[str, dict[str, str | None]]:
    """The rows of a run that has other names for the images, with their ids."""
    rows = json.loads((images / "dataset_world.json").read_text())["images"]
    found = {}
    for row in rows:
        content = (images / row["filepath"] / row["filename"]).read_bytes()
        sha = hash_bytes(content) if hashes else None
        found[f"row-{row['imgid']}.jpg"] = {"image_id": str(row["imgid"]), "image_sha256": sha}
    return found


def test_dense_text_of_other_names_is_joined_by_id_if_the_images_are_the_same(
    images: Path, tmp_path: Path
) -> None:
    texts, more = list(dense_of(images).values()), rename(images)
    named = dict(reversed(list(zip(more, texts, strict=True))))
    dense = write_dense(tmp_path / "dense", images, named, more=more)
    corpus = join(images, dense)
    for samples in corpus.splits.values():
        for sample in samples:
            assert sample.dense == (dense_of(images)[sample.name],)
    assert any("matched by image id" in note for note in corpus.notes)
    # The ids of another data set: the same numbers, other images.
    for path in images.glob("*/*.png"):
        path.write_bytes(path.read_bytes() + b"another")
    with pytest.raises(UserError, match=r"same ids differ too: 0 \(train/000.png, there row-0"):
        join(images, dense)


def test_ids_alone_are_no_proof(images: Path, tmp_path: Path) -> None:
    more = rename(images, hashes=False)
    dense = write_dense(tmp_path / "dense", images, dict.fromkeys(more, "text"), more=more)
    with pytest.raises(UserError, match="no dense text .* belongs to an image"):
        join(images, dense)


def test_other_images_of_the_same_names_are_told(images: Path, tmp_path: Path) -> None:
    more: dict[str, dict[str, str | None]] = {
        name: {"image_sha256": hash_bytes((images / name).read_bytes())}
        for name in dense_of(images)
    }
    dense = write_dense(tmp_path / "dense", images, dense_of(images), more=more)
    assert join(images, dense).notes == ()
    # A run that does not know what it captioned cannot be compared.
    unknown = write_dense(tmp_path / "unknown", images, dense_of(images))
    for path in images.glob("*/*.png"):
        path.write_bytes(path.read_bytes() + b"another")
    assert join(images, unknown).notes == ()
    [note] = join(images, dense).notes
    assert note.startswith("8 of 8 images checked are not the files that ")
    assert "captioned: train/000.png, " in note and "the texts are wrong" in note


def test_one_file_name_twice_in_the_dense_text(images: Path, tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense", images, dense_of(images))
    table = shards.read_rows(dense)
    shard = next(dense.glob("*.parquet"))
    shards.write_shard(shard, pa.concat_tables([table, table]).cast(CAPTION_SCHEMA), metadata={})
    append_receipt(dense, shards.make_receipt(shard, index=0))
    with pytest.raises(UserError, match="more than one row for train/000.png"):
        read_dense(dense)


def test_captions_beyond_so_many_are_left_out_and_counted(images: Path) -> None:
    whole, cut = join(images, None), join(images, None, captions_per_image=2)
    for split, samples in cut.splits.items():
        for sample, same in zip(samples, whole.splits[split], strict=True):
            assert len(same.captions) == 3 and sample.captions == same.captions[:2]
            assert len(same.caption_ids) == 3 and sample.caption_ids == same.caption_ids[:2]
            assert sample.image_id == same.image_id and sample.image_id is not None
    assert any("left out 16 captions" in note for note in cut.notes) and not whole.notes


def test_limit_keeps_the_first_of_each_split(images: Path) -> None:
    corpus = join(images, None, limit=2)
    assert corpus.counts() == {"train": 2, "val": 2, "test": 2}
    assert corpus.splits["train"][1].name == "train/001.png"
