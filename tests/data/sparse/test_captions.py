"""Caption sources: finding the one, reading each kind, making splits where there are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.sparse.captions import find_captions, read_captions
from data.sparse.source import split_by_hash


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def karpathy(*rows: tuple[str, str], folder: str | None = None) -> dict[str, Any]:
    extra = {"filepath": folder} if folder else {}
    return {
        "images": [
            {"filename": n, "split": s, "sentences": [{"raw": f" of  {n} "}], "cocoid": 7, **extra}
            for n, s in rows
        ]
    }


def coco(*names: str) -> dict[str, Any]:
    return {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
        "annotations": [
            {"image_id": k, "caption": f"{word} {name}"}
            for word in ("one", "two")
            for k, name in enumerate(names)
        ],
    }


@pytest.mark.parametrize(
    "place",
    ["coco/dataset_coco.json", "dataset_coco.json", "coco/annotations/captions_val2014.json",
     "annotations/captions_train2017.json", "coco/captions.txt", "captions.txt"],
)  # fmt: skip
def test_the_one_source_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("coco").mkdir()
    write_json(Path(place), {})
    assert find_captions(Path("coco")) == Path(place)


def test_no_source_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    with pytest.raises(UserError, match="no captions in .*--captions"):
        find_captions(tmp_path / "coco")


def test_two_sources_are_both_named_and_none_is_preferred(tmp_path: Path) -> None:
    write_json(tmp_path / "coco/dataset_coco.json", {})
    write_json(tmp_path / "captions.txt", {})
    with pytest.raises(UserError) as caught:
        find_captions(tmp_path / "coco")
    message = str(caught.value)
    assert message.startswith("2 caption sources")
    assert "dataset_coco.json" in message and "captions.txt" in message
    assert "--captions" in message


def test_cocos_own_annotations_are_one_source(tmp_path: Path) -> None:
    folder = tmp_path / "coco/annotations"
    write_json(folder / "captions_train2017.json", coco("1.jpg", "2.jpg"))
    write_json(folder / "captions_val2017.json", coco(*(f"v{k}.jpg" for k in range(40))))
    assert find_captions(tmp_path / "coco") == folder
    source = read_captions(folder)
    counts = source.counts()
    assert counts["train"] == 2 and counts["val"] + counts["test"] == 40
    assert counts["val"] > 5 and counts["test"] > 5
    assert "split into val and test" in source.notes[0]
    # Two years side by side are two sources.
    write_json(folder / "captions_val2014.json", coco("3.jpg"))
    with pytest.raises(UserError, match="3 caption sources"):
        find_captions(tmp_path / "coco")


def test_karpathy(tmp_path: Path) -> None:
    rows = karpathy(("1.jpg", "train"), ("2.jpg", "restval"), ("3.jpg", "test"), folder="val2014")
    source = read_captions(write_json(tmp_path / "dataset_coco.json", rows))
    assert source.kind == "karpathy" and source.notes == ()
    assert [i.file_name for i in source.images] == [f"val2014/{k}.jpg" for k in (1, 2, 3)]
    assert [i.split for i in source.images] == ["train", "train", "test"]
    assert source.images[0].captions == ("of 1.jpg",) and source.images[0].image_id == "7"
    flat = read_captions(write_json(tmp_path / "b.json", karpathy(("1.jpg", "val"))))
    assert flat.images[0].file_name == "1.jpg"


def test_ids_stay_with_their_captions(tmp_path: Path) -> None:
    rows = karpathy(("1.jpg", "test"), ("2.jpg", "test"))
    said = [{"raw": "one", "sentid": 11}, {"raw": " ", "sentid": 12}, {"raw": "two", "sentid": 13}]
    rows["images"][0]["sentences"] = said
    rows["images"][1]["sentences"] = [{"raw": "one", "sentid": 21}, {"raw": "two"}]
    first, second = read_captions(write_json(tmp_path / "dataset_a.json", rows)).images
    assert first.captions == ("one", "two") and first.caption_ids == ("11", "13")
    assert second.captions == ("one", "two") and second.caption_ids == ()
    notes = coco("1.jpg", "2.jpg")
    for number, note in enumerate(notes["annotations"]):
        note["id"] = 30 + number
    first, second = read_captions(write_json(tmp_path / "captions_all.json", notes)).images
    assert first.captions == ("one 1.jpg", "two 1.jpg") and first.caption_ids == ("30", "32")
    assert second.image_id == "1" and second.caption_ids == ("31", "33")


def test_coco_without_splits_is_split_by_hash_and_says_so(tmp_path: Path) -> None:
    names = [f"{k}.jpg" for k in range(300)]
    source = read_captions(write_json(tmp_path / "captions_all.json", coco(*names)))
    assert source.images[5].captions == ("one 5.jpg", "two 5.jpg")
    assert [i.split for i in source.images] == [split_by_hash(n) for n in names]
    counts = source.counts()
    assert counts["train"] > 200 and counts["val"] > 10 and counts["test"] > 10
    assert "hash of the file name" in source.notes[0]
    assert split_by_hash("5.jpg") == split_by_hash("5.jpg")


@pytest.mark.parametrize(
    "text",
    [
        'image,caption\n1.jpg,"a dog, a cat"\n1.jpg,two\n2.jpg,a dog\n',
        "image_name| comment_number| comment\n1.jpg| 0| a dog, a cat\n1.jpg| 1| two\n"
        "2.jpg| 0| a dog\n",
        "1.jpg#0\ta dog, a cat\n1.jpg#1\ttwo\n2.jpg#0\ta dog\n",
    ],
)
def test_flickr(tmp_path: Path, text: str) -> None:
    path = tmp_path / "captions.txt"
    path.write_text(text)
    source = read_captions(path)
    assert source.kind == "flickr"
    assert [(i.file_name, i.captions) for i in source.images] == [
        ("1.jpg", ("a dog, a cat", "two")),
        ("2.jpg", ("a dog",)),
    ]
    assert "hash" in source.notes[0]


@pytest.mark.parametrize("sign", [",", ";", "|", " | "])
def test_delimiters_in_a_caption_are_kept(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "captions.txt"
    path.write_text(f"image{sign}caption\n1.jpg{sign}a dog{sign}brown\n")
    assert read_captions(path).images[0].captions == (f"a dog{sign}brown",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[]", "has no image file in its 0 entries"),
        ("a.json", "7", "of no known kind"),
        ("a.json", '["a.jpg"]', "entry 0 is 'a.jpg'"),
        ("a.json", '[{"url": "https://a.example/1.jpg"}]', "give those as a list"),
        ("a.json", '[{"image": "1.jpg", "conversations": []}]', "no captioned image"),
        ("a.json", '[{"image": "1.jpg", "caption": 4}]', "entry 0 has a caption that is not text"),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"bbox": []}]}',
            "annotations of another kind",
        ),
        ("a.json", '{"images": []}', "no captioned image"),
        ("a.json", '{"images": [{"filename": "x"}]}', "image 0 lacks"),
        ("a.json", json.dumps(karpathy(("1.jpg", "devel"))), "unknown split 'devel'"),
        (
            "a.json",
            json.dumps(karpathy((4, "val"))),
            "image 0 has a 'filename' that is not text: 4",
        ),  # type: ignore[arg-type]
        (
            "a.json",
            json.dumps(karpathy(("1.jpg", "val"), ("1.jpg", "val"))),
            "twice, for example 1.jpg",
        ),
        ("a.json", '{"images": [{}], "annotations": [{}]}', "lacks"),
        ("captions.txt", "hello\nworld\n", "is not a Flickr captions file"),
        ("captions.txt", "image,caption\n,a wall\n", "line 2 has no image"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_captions(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_list_of_entries_as_blip_has_it(tmp_path: Path) -> None:
    """An image may have several; a number of the entry is no id of the image."""
    rows: list[dict[str, Any]] = [
        {"image": "a/1.jpg", "caption": "a  dog", "image_id": "coco_1", "id": 1},
        {"image": "a/2.jpg", "caption": ["a cat", " "], "id": 2},
        {"image": "a/1.jpg", "caption": "two", "image_id": "coco_1", "id": 3},
        {"image": "a/2.jpg", "caption": "more", "id": 4},
        {"conversations": []},
    ]
    source = read_captions(write_json(tmp_path / "coco_karpathy_train.json", rows))
    assert [(i.file_name, i.captions, i.image_id) for i in source.images] == [
        ("a/1.jpg", ("a dog", "two"), "coco_1"),
        ("a/2.jpg", ("a cat", "more"), None),
    ]
    assert [note for note in source.left_out if "1 entries have no" in note or "blank" in note]
    assert "hash" in source.notes[-1]
    for row in rows[:4]:
        row["split"] = "dev"
    source = read_captions(write_json(tmp_path / "x.json", rows))
    assert [i.split for i in source.images] == ["val", "val"]
    rows[0]["split"] = "test"
    with pytest.raises(UserError, match="different split"):
        read_captions(write_json(tmp_path / "x.json", rows))


def test_splits_by_other_names(tmp_path: Path) -> None:
    rows = karpathy(
        ("1.jpg", "dev"), ("2.jpg", "validation"), ("3.jpg", "TRAIN"), ("4.jpg", "Test")
    )
    source = read_captions(write_json(tmp_path / "dataset_a.json", rows))
    assert [i.split for i in source.images] == ["val", "val", "train", "test"]


def changed(**change: Any) -> dict[str, Any]:
    """COCO's form, with ids, one annotation of image 1 changed."""
    found = coco(*(f"{number}.jpg" for number in range(3)))
    for number, note in enumerate(found["annotations"]):
        note["id"] = 100 + number
    found["annotations"][1].update(change)
    return found


@pytest.mark.parametrize("same", ["1", 1.0])
def test_an_id_is_the_same_whatever_its_type(tmp_path: Path, same: Any) -> None:
    path = write_json(tmp_path / "captions_all.json", changed(image_id=same))
    assert [len(i.captions) for i in read_captions(path).images] == [2, 2, 2]
    every = changed()
    for way in ("{}", "{}.0", "{:03}"):
        for number, note in enumerate(every["annotations"]):
            note["image_id"] = way.format(number % 3)
        path.write_text("\ufeff" + json.dumps(every))
        source = read_captions(path)
        assert [i.image_id for i in source.images] == ["0", "1", "2"]
        assert any("3 of 3 matched by" in note for note in source.notes) == (way != "{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": None}, "annotation with the id 101 lacks 'caption'"),
        ({"caption": 5}, "annotation with the id 101 has a 'caption' that is not text: 5"),
        ({"image_id": None}, "annotation with the id 101 lacks 'image_id'"),
        ({"image_id": [1]}, "annotation with the id 101"),
        ({"caption": None, "id": None}, "annotation 1 lacks 'caption'"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_captions(write_json(tmp_path / "captions_all.json", changed(**change)))


def test_coco_s_images_need_names_and_ids_of_their_own(tmp_path: Path) -> None:
    for key, value in (("file_name", 4), ("id", None), ("id", "0")):
        found = changed()
        found["images"][1][key] = value
        with pytest.raises(UserError, match="image 1 "):
            read_captions(write_json(tmp_path / "captions_all.json", found))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = write_json(tmp_path / "captions_all.json", changed(image_id=9))
    assert "1 captions belong to images that are not listed" in read_captions(path).notes[0]
    write_json(path, changed(caption=" "))
    source = read_captions(path)
    assert "1 captions are blank" in source.notes[0] and source.images[1].captions == ("two 1.jpg",)
    rows = karpathy(("1.jpg", "val"))
    rows["images"][0]["sentences"].append({"raw": " "})
    assert "1 captions are blank" in read_captions(write_json(path, rows)).notes[0]
    path.with_suffix(".txt").write_text("image,caption\n1.jpg,a\n1.jpg,\n2.jpg,NaN\n2.jpg,b\n")
    source = read_captions(path.with_suffix(".txt"))
    assert any("2 captions are blank" in note for note in source.notes)
    assert [image.captions for image in source.images] == [("a",), ("b",)]


def test_captions_beside_a_link_are_found_first(tmp_path: Path) -> None:
    for folder in ("far/images", "near"):
        (tmp_path / folder).mkdir(parents=True)
    link = tmp_path / "near/images"
    link.symlink_to(tmp_path / "far/images")
    far = write_json(tmp_path / "far/dataset_a.json", {})
    assert find_captions(link) == far
    assert find_captions(link) != write_json(tmp_path / "near/dataset_b.json", {})
    assert find_captions(link) == tmp_path / "near/dataset_b.json"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not exist"):
        read_captions(tmp_path / "no.json")
