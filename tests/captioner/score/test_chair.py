"""CHAIR on texts written by hand, with the counts that a reader gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.score.chair import load_objects, score_chair
from captioner.score.objects import load_object_words
from data.errors import UserError

WORDS = load_object_words()


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("A man rides a horse. The man's horse is brown.", ["person", "horse", "person", "horse"]),
        ("Two puppies, three buses and four knives.", ["dog", "bus", "knife"]),
        ("He eats a hot dog beside his dog.", ["hot dog", "dog"]),
        ("Teddy bears lie by a polar bear.", ["teddy bear", "bear"]),
        (
            "A boy with a baseball bat and a catcher’s mitt.",
            ["person", "baseball bat"] + ["baseball glove"],
        ),  # fmt: skip
        ("They play baseball on the baseball field.", []),
        ("A bus stop by the train tracks, toilet paper, a flower bed.", []),
        ("A bus waits at the bus stops.", ["bus"]),
        ("Wine glasses, glasses of wine, and a man with glasses.", ["wine glass"] * 2 + ["person"]),
        ("An orange cat in an orange and white box.", ["cat"]),
        ("He wears orange. The sky is orange, a bright orange glow.", []),
        ("An orange, a sliced orange and oranges.", ["orange"] * 3),
        ("The orange is next to an orange on a plate.", ["orange"] * 2),
        ("A cell phone, a telephone booth and a remote area.", ["cell phone"]),
        ("A catalogue of carpets and boatmen.", []),
        ("TRUCKS! (A Truck)", ["truck", "truck"]),
        ("", []),
    ],
)
def test_mentions(text: str, mentions: list[str]) -> None:
    assert WORDS.find_mentions(text) == mentions


def test_the_table_has_cocos_80_classes() -> None:
    names = {name for name in WORDS.entries.values() if name is not None}
    assert len(names) == 80
    assert all(WORDS.name_object(name) == name for name in names)
    assert WORDS.name_object("Traffic_Light") == "traffic light"
    assert WORDS.name_object("lamp") is None


def test_hallucinated_mentions_are_counted_one_by_one() -> None:
    text = "A woman and her dog sit on a bench. The dog looks at a cat. A car is parked there."
    score = score_chair(text, frozenset({"person", "dog"}), WORDS)
    assert score.mentioned == ["person", "dog", "bench", "dog", "cat", "car"]
    assert score.hallucinated == ["bench", "cat", "car"]
    assert score.share == 0.5


def test_what_people_mention_is_there_too() -> None:
    captions = ["a lady on a park bench", "somebody near a parked car"]
    text = "A woman and her dog sit on a bench near a car."
    score = score_chair(text, frozenset({"dog"}), WORDS, captions=captions)
    assert score.hallucinated == [] and score.share == 0


def test_a_text_without_objects_has_no_share() -> None:
    assert score_chair("A quiet lake at dawn.", frozenset(), WORDS).share is None


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


COCO = {
    "images": [
        {"id": 790, "file_name": "000000000790.jpg"},
        {"id": 25, "file_name": "000000000025.jpg"},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 9, "name": "x"}],
    "annotations": [
        {"image_id": 790, "category_id": 1},
        {"image_id": 790, "category_id": 17},
        {"image_id": 790, "category_id": 9},
    ],
}


def test_coco_instances_are_found_by_id_name_and_number(tmp_path: Path) -> None:
    known = load_objects(write(tmp_path / "instances.json", COCO), WORDS)
    both = frozenset({"person", "cat"})
    for keys in (
        ("whatever.jpg", "790"),
        ("whatever.jpg", "790.0"),
        ("train/000000000790.jpg", None),
        ("COCO_val2014_000000000790.jpg", None),
        ("000000000790.png", None),
    ):
        # Listed without any annotation: nothing is there. Not listed: nothing is known.
        others = [("000000000025.jpg", None), ("000000000026.jpg", None)]
        there, notes = known.find([keys, *others])
        assert there == [both, frozenset(), None]
        assert notes[0].startswith("1 of 3 matched by")
    assert known.find([("a/000000000790.jpg", None), ("b.jpg", "790")])[0] == [None, None]
    assert known.unknown == {"x": 1}


def test_plain_lists_are_translated(tmp_path: Path) -> None:
    plain = {"a/b.jpg": ["Puppies", "sofa", "lamp", "lamp"], "7": []}
    known = load_objects(write(tmp_path / "o.json", plain), WORDS)
    found, _ = known.find([("a/b.jpg", None), ("c.jpg", "7")])
    assert found == [{"dog", "couch"}, frozenset()]
    assert known.unknown == {"lamp": 2}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "cannot be read"),
        ([1], "neither COCO's instances"),
        ({"a.jpg": "dog"}, "neither COCO's instances"),
        ({"annotations": []}, "neither COCO's instances"),
        ({**COCO, "annotations": [{"image_id": 1, "category_id": 1}]}, "the image 1, which"),
        ({**COCO, "annotations": [{"image_id": 790, "category_id": 5}]}, "the category 5, which"),
        ({**COCO, "images": COCO["images"] * 2}, "in more than one row"),
        ({"a.jpg": ["lamp"]}, "--synonyms"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_objects(write(tmp_path / "o.json", value), WORDS)
    with pytest.raises(UserError, match="does not exist"):
        load_objects(tmp_path / "none.json", WORDS)


def test_synonyms_of_ones_own(tmp_path: Path) -> None:
    own = "objects: {lamp: [lantern, street light], leaf:}\nphrases: [lamp post]\n"
    words = load_object_words(write(tmp_path / "s.yaml", own))
    text = "Lanterns, a street light, a lamp post, leaves and a dog."
    assert words.find_mentions(text) == ["lamp", "lamp", "leaf"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objects: [dog]", "malformed"),
        ("dog: [puppy]", "malformed"),
        ("objects: {dog: puppy}", "malformed"),
        ("objects: {dog: [1]}", "malformed"),
        ("objects: {1: [dog]}", "malformed"),
        ("objects: {dog: ['']}", "malformed"),
        ("objects: {dog: ['.']}\nphrases: dog", "malformed"),
        ("objects: {dog: [pet], cat: [pets]}", "'pets' stands for both 'dog' and 'cat'"),
        ("{", "cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_wrong_synonyms_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_object_words(write(tmp_path / "s.yaml", text))
    assert "\n" not in str(caught.value)
