"""The released code's files of a data set as one caption source."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.sparse.captions import find_captions, read_captions
from data.sparse.released import format_dense_line, has_dense_files, is_released_folder


def write_split(folder: Path, name: str, ids: list[str], *, repeat: int = 1, each: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_ids.txt").write_text("".join(f"{i}\n" * repeat for i in ids))
    lines = [f"caption {k} of {i}\n" for i in ids for k in range(each)]
    (folder / f"{name}_caps.txt").write_text("".join(lines))


def write_dense(folder: Path, name: str, ids: list[str]) -> None:
    lines = [format_dense_line(f"dense of {i}", model_id="llava") for i in ids]
    (folder / f"f30k_{name}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "precomp"
    write_split(made, "train", ["7", "3", "9"])
    write_split(made, "dev", ["1"], repeat=2)
    write_split(made, "test", ["4"])
    write_split(made, "testall", ["4", "5"], repeat=5, each=5)
    write_dense(made, "train", ["7", "3", "9"])
    (made / "id_mapping.json").write_text(json.dumps({str(i): f"{i}.jpg" for i in range(10)}))
    return made


def test_splits_captions_and_dense_text_by_line(folder: Path) -> None:
    source = read_captions(folder)
    assert source.kind == "released" and source.counts() == {"train": 3, "val": 1, "test": 2}
    by_name = {image.file_name: image for image in source.images}
    assert by_name["3.jpg"].captions == ("caption 0 of 3", "caption 1 of 3")
    assert by_name["3.jpg"].dense == "dense of 3" and by_name["3.jpg"].image_id == "3"
    assert by_name["1.jpg"].split == "val" and by_name["1.jpg"].dense is None
    assert len(by_name["5.jpg"].captions) == 5
    assert "dense text of 3 train images from f30k_train.jsonl" in source.notes
    assert has_dense_files(folder)


def test_the_folder_is_found_beside_the_images_and_the_mapping_above_it(folder: Path) -> None:
    images = folder / "images"
    images.mkdir()
    assert find_captions(images).resolve() == folder.resolve()
    (folder / "id_mapping.json").rename(folder.parent / "id_mapping.json")
    assert len(read_captions(folder).images) == 6
    (folder.parent / "id_mapping.json").unlink()
    with pytest.raises(UserError, match="has no id_mapping.json"):
        read_captions(folder)


def test_without_captions_it_is_no_such_folder(folder: Path) -> None:
    for path in folder.glob("*_caps.txt"):
        path.unlink()
    assert not is_released_folder(folder)
    with pytest.raises(UserError, match="neither one captions_.*nor the released code's"):
        read_captions(folder)


def test_what_would_shift_or_mix_pairs_is_refused(folder: Path) -> None:
    write_dense(folder, "train", ["7", "9"])
    with pytest.raises(UserError, match=r"has 2 lines and .*train_ids.txt 3 ids"):
        read_captions(folder)
    write_dense(folder, "train", ["7", "3", "9"])
    (folder / "other_train.jsonl").write_text("")
    with pytest.raises(UserError, match=r"2 files with dense text .*other_train.jsonl\): keep one"):
        read_captions(folder)
    (folder / "other_train.jsonl").unlink()
    write_split(folder, "dev", ["7"])
    with pytest.raises(UserError, match=r"lists 1 images twice, for example 7.jpg"):
        read_captions(folder)
    write_split(folder, "dev", ["77", "78"])
    with pytest.raises(
        UserError, match=r"2 of 2 ids of .*dev_ids.txt have no file name .*: 77, 78"
    ):
        read_captions(folder)
