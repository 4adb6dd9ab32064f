"""Which protocol a split gets, and the ids of its images and captions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import UserError
from tests.vse.evaluation.test_eccv import PACKAGE, load, needs_package, write_truth
from vse.evaluation import protocol
from vse.evaluation.protocol import choose_protocol, name_ids
from vse.samples.corpus import Sample


def make(name: str, image_id: str | None, *caption_ids: str) -> Sample:
    captions = tuple(f"{name} {number}" for number in range(max(1, len(caption_ids))))
    return Sample(name, Path(name), captions, (), image_id, caption_ids)


@pytest.fixture(scope="module")
def coco() -> list[Sample]:
    return [
        make(f"{image}.jpg", image, *map(str, captions))
        for image, captions in load("original_image_to_caption").items()
    ]


@needs_package
def test_cocos_split_gets_everything(coco: list[Sample]) -> None:
    chosen = choose_protocol(coco)
    assert chosen.folds == 5 and set(chosen.truths) == {"eccv", "cxc"} and chosen.notes == ()
    assert len(chosen.truths["eccv"].texts) == 1261
    # A part of it is still COCO, and no fold is cut.
    part = choose_protocol(coco[:100])
    assert part.folds is None and set(part.truths) == {"eccv", "cxc"}
    assert choose_protocol(coco, folds=0).folds is None
    # One of them that is missing is no reason to leave the folds out without a word.
    less = choose_protocol(coco[1:], asked=5000)
    assert less.folds is None and "--folds 5" in less.notes[0]
    assert choose_protocol(coco[1:], asked=5000, folds=5).folds == 5
    assert choose_protocol(coco[:100], folds=3).folds == 3


@needs_package
def test_other_splits_get_what_can_be_had(
    coco: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = [replace(sample, image_id=str(number)) for number, sample in enumerate(coco)]
    assert choose_protocol(other).folds == 5 and not choose_protocol(other).truths
    nameless = [replace(sample, caption_ids=()) for sample in coco]
    assert not choose_protocol(nameless).truths
    monkeypatch.setattr(protocol, "find_package", lambda: None)
    chosen = choose_protocol(coco)
    assert not chosen.truths and "pip install 'eccv-caption" in chosen.notes[0]
    assert choose_protocol(coco[:100]).notes == ()


def test_what_was_asked_for_and_cannot_be(tmp_path: Path) -> None:
    samples = [make("a.jpg", "1", "10", "11"), make("b.jpg", "2", "20")]
    with pytest.raises(UserError, match="2 images cannot be split into 3 folds: --folds"):
        choose_protocol(samples, folds=3)
    write_truth(tmp_path, "eccv", {"1": [10, 20]}, {"20": [1, 2]})
    assert set(choose_protocol(samples, truth=tmp_path).truths) == {"eccv"}
    with pytest.raises(UserError, match="no ids.*Karpathy's JSON with sentid"):
        choose_protocol([make("a.jpg", "1")], truth=tmp_path)
    write_truth(tmp_path, "cxc", {"7": [10]}, {"20": [1]})
    with pytest.raises(UserError, match=r"no query of its cxc .* \(wanted 7, found 1\)"):
        choose_protocol(samples, truth=tmp_path)


def test_ids() -> None:
    ids = name_ids([make("a.jpg", "1", "10", "11"), make("b.jpg", "2", "20")])
    assert (ids.images, ids.texts) == (["1", "2"], ["10", "11", "20"])
    ids = name_ids([make("x/a.jpg", "1"), make("y/a.jpg", "1", "20")])
    assert (ids.images, ids.texts) == (["x/a.jpg", "y/a.jpg"], ["x/a.jpg#0", "y/a.jpg#0"])
    # Numbers that occur twice name nothing.
    ids = name_ids([make("a.jpg", "1", "10", "11"), make("b.jpg", "2", "10")])
    assert ids.texts == ["1#0", "1#1", "2#0"]


@needs_package
def test_the_ground_truth_is_plain_json() -> None:
    assert PACKAGE is not None
    for path in PACKAGE.glob("*.json"):
        assert isinstance(json.loads(path.read_text()), dict)
