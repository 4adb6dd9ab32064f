"""Dense texts tell every fact, and the audit finds what is false in them."""

import pytest

from data.scenes.dense import audit, describe
from data.scenes.world import Scene, Thing, sample_scene

SCENE = Scene(
    split="test",
    index=0,
    ground="sand",
    things=(
        Thing("star", "red", "large", "striped", place=0),
        Thing("moon", "blue", "small", "plain", place=4),
        Thing("ring", "white", "small", "checked", place=5),
        Thing("cross", "pink", "large", "spotted", place=7),
    ),
)
TEXT = (
    "The image shows four shapes on sand. "
    "In the top left corner is a large red striped star. "
    "In the centre is a small blue plain moon. "
    "On the right is a small white checked ring. "
    "At the bottom is a large pink spotted cross. "
    "The pink cross is below the red star."
)


def test_describe_writes_the_text_by_hand() -> None:
    assert describe(SCENE) == TEXT


def test_own_text_is_all_true_and_tells_all() -> None:
    for index in range(50):
        scene = sample_scene(3, "train", index)
        result = audit(describe(scene), scene)
        assert (result.true, result.told, result.exact) == (1.0, 1.0, 1.0), index
        assert result.facts == 1 + 5 * len(scene.things)


@pytest.mark.parametrize(
    ("said", "instead", "false", "untold"),
    [
        ("red striped star", "pink striped star", 1, 1),
        ("small blue plain moon", "large green spotted ring", 4, 4),
        ("On the right is", "On the left is", 5, 5),  # nothing stands there: all five claims fail
        ("four shapes on sand", "five shapes on grass", 2, 1),
        ("is below the red", "is above the red", 1, 0),
        ("In the centre is a small blue plain moon.", "", 0, 5),
        ("In the centre is a small blue plain moon.", "Something stands there.", 1, 5),
    ],
)
def test_audit_counts_each_false_statement(
    said: str, instead: str, false: int, untold: int
) -> None:
    result = audit(TEXT.replace(said, instead), SCENE)
    assert result.statements - result.true_statements == false
    assert result.facts - result.told_facts == untold


def test_saying_a_thing_twice_tells_no_more() -> None:
    result = audit(TEXT + " On the right is a small white checked ring.", SCENE)
    assert result.told_facts == result.facts


def test_empty_text_tells_nothing() -> None:
    result = audit("", SCENE)
    assert (result.statements, result.told_facts) == (0, 0)
