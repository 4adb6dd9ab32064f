"""COCO's and Karpathy's JSON as a source of images."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.sources.opening import SourceOptions
from tests.data.sources.listing import (
    list_images,
    read_all,
)


def test_karpathys_json(tmp_path: Path, photos: dict[str, bytes]) -> None:
    images = [
        {"filename": "0001.png", "split": "test", "imgid": 7, "sentences": [{"raw": "two  words"}]},
        {
            "filename": "0000.png",
            "filepath": "b",
            "split": "restval",
            "cocoid": 9,
            "sentences": [{"raw": "one"}, {"raw": "more"}],
        },
    ]
    path = tmp_path / "photos" / "dataset_x.json"
    path.write_text(json.dumps({"images": images}))
    source, listing = list_images(path)
    first, second = listing.records
    assert (first.file_name, first.image_id, first.split) == ("0001.png", "7", "test")
    assert (second.file_name, second.image_id, second.split) == ("b/0000.png", "9", "train")
    assert (first.captions, second.captions) == (("two words",), ("one", "more"))
    assert read_all(source, listing.records) == [photos["0001.png"], photos["b/0000.png"]]
    _, train = list_images(path, SourceOptions(split="train"))
    assert [record.file_name for record in train.records] == ["b/0000.png"]
    with pytest.raises(UserError, match="no image in the split val"):
        list_images(path, SourceOptions(split="val"))
    with pytest.raises(UserError, match="with --image-root"):
        list_images(path, SourceOptions(root=tmp_path))


def test_annotations_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "a/../../x.jpg"):
        row = {"filename": name, "split": "test", "sentences": [{"raw": "x"}]}
        (tmp_path / "d.json").write_text(json.dumps({"images": [row]}))
        with pytest.raises(UserError, match="outside the images' folder"):
            list_images(tmp_path / "d.json")


def test_cocos_json(tmp_path: Path, photos: dict[str, bytes]) -> None:
    about = {
        "images": [{"id": 3, "file_name": "0002.png"}, {"id": 4, "file_name": "0003.png"}],
        "annotations": [
            {"image_id": 4, "caption": "four"},
            {"image_id": 3, "caption": "three"},
            {"image_id": 3, "caption": "drei"},
        ],
    }
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(about))
    source, listing = list_images(path, SourceOptions(root=tmp_path / "photos"))
    assert [record.image_id for record in listing.records] == ["3", "4"]
    assert listing.records[0].captions == ("three", "drei")
    assert read_all(source, listing.records) == [photos["0002.png"], photos["0003.png"]]


def test_other_spellings_of_a_list_of_images(tmp_path: Path, photos: dict[str, bytes]) -> None:
    """Instances, test images, LLaVA's conversations, plain lists: their images are read."""
    root = SourceOptions(root=tmp_path / "photos")
    coco = [{"id": 3, "file_name": "0002.png"}, {"id": 4, "file_name": "0003.png"}]
    talk = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A wall."}]
    entries = [
        {"id": 3, "image": "0002.png", "conversations": talk},
        {"id": "x", "conversations": talk},
        {"id": 4, "image": "0003.png", "caption": "four"},
    ]
    spellings = {
        "instances_val2017.json": {"images": coco, "annotations": [{"image_id": 3, "bbox": []}]},
        "image_info_test2017.json": {"images": coco},
        "captions_val2017.json": {"images": coco, "annotations": []},
        "llava.json": entries,
    }
    for name, about in spellings.items():
        (tmp_path / name).write_text(json.dumps(about))
        source, listing = list_images(tmp_path / name, root)
        assert [record.image_id for record in listing.records] == ["3", "4"], name
        assert read_all(source, listing.records) == [photos["0002.png"], photos["0003.png"]]
    assert [record.captions for record in listing.records] == [(), ("four",)]
    assert any("1 entries have no image file" in note for note in listing.notes)
