"""The card of a run of one of several texts: samples, and answers that have no flags."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.cli import run as d2s
from pipelines.hub.dataset.tree import make_dataset_tree
from tests.pipelines.hub.hub import write_photos

TEXTS = {
    "dense": "Describe this image.",
    "twice": {"prompt": "Describe it briefly.", "samples": 2},
    "kind": {"prompt": "What is it?", "system": "/no_think", "choices": ["/m/dog", "~1/2 full"]},
    "facts": {
        "prompt": "What is there?",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("texts")
    write_photos(folder / "photos", 3)
    (folder / "prompts.yaml").write_text(yaml.safe_dump(TEXTS))
    words = "caption --engine scripted --model m --images photos --prompts prompts.yaml --out out"
    with contextlib.chdir(folder):
        assert d2s(shlex.split(words)) == 0
        yield folder / "out"


def write_card(run: Path) -> str:
    tree = make_dataset_tree(run, repo="me/set", license="mit", max_errors=1, max_flagged=1)
    assert isinstance(tree.readme.source, bytes)
    return tree.readme.source.decode()


def test_samples_are_rows_of_the_same_image(texts: Path) -> None:
    once, twice = write_card(texts / "dense"), write_card(texts / "twice")
    assert "3 images" in once and "one row for each image" in once and "d2s import hf:" in once
    # An import takes one text of an image.
    assert "3 images" in twice and "6 rows, 2 for each" in twice and "d2s import" not in twice
    assert "one row for each" not in twice


def test_where_no_flag_was_looked_for_the_card_claims_nothing(texts: Path) -> None:
    assert "language:" in write_card(texts / "dense")
    for name in ("kind", "facts"):
        card = write_card(texts / name)
        assert "language:" not in card
        assert "is flagged" not in card and "are flagged" not in card
