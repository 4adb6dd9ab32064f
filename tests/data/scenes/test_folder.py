"""A folder of scenes: Karpathy's format, the truth, the same again, no leaks, no overwriting."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from data.scenes.folder import make_truth, read_truths, write_scenes
from data.scenes.render import PIXELS, render
from data.scenes.world import SPLITS, sample_scene

COUNTS = {"train": 6, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world") / "scenes"
    write_scenes(directory, counts=COUNTS, seed=5, processes=1)
    return directory


def test_pictures_captions_and_truth_agree(folder: Path) -> None:
    dataset = json.loads((folder / "dataset_scenes.json").read_text())
    truths = list(read_truths(folder))
    assert [image["split"] for image in dataset["images"]] == ["train"] * 6 + ["val"] * 2 + [
        "test"
    ] * 3
    for image, truth in zip(dataset["images"], truths, strict=True):
        assert f"{image['filepath']}/{image['filename']}" == truth.file_name
        assert [s["raw"] for s in image["sentences"]] == list(truth.captions)
        with Image.open(folder / truth.file_name) as picture:
            assert picture.size == (PIXELS, PIXELS)
    assert truths[7] == make_truth(5, "val", 1)


def test_figures_are_printed_with_the_oracle(folder: Path) -> None:
    figures = json.loads((folder / "figures.json").read_text())
    assert 0 < figures["share_untold_by_five"] < 1
    assert figures["oracle"]["images"] == 3


def test_writing_again_changes_nothing(folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    write_scenes(folder, counts=COUNTS, seed=5, processes=1)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_other_scenes_in_the_same_folder_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--out"):
        write_scenes(folder, counts=COUNTS, seed=6, processes=1)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match="contains other files"):
        write_scenes(tmp_path, counts=COUNTS, seed=5, processes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_folder_cut_short_is_finished_as_it_was_begun(tmp_path: Path, folder: Path) -> None:
    cut = tmp_path / "scenes"
    cut.mkdir()
    (cut / "facts.jsonl").write_bytes((folder / "facts.jsonl").read_bytes())
    with pytest.raises(UserError, match="--out"):
        write_scenes(cut, counts=COUNTS, seed=6, processes=1)
    assert [path.name for path in cut.iterdir()] == ["facts.jsonl"]
    write_scenes(cut, counts=COUNTS, seed=5, processes=1)
    names = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    assert {str(p.relative_to(cut)) for p in cut.rglob("*")} == names


def test_splits_share_no_scene() -> None:
    facts = [{sample_scene(0, split, i).facts() for i in range(300)} for split in SPLITS]
    assert len(frozenset().union(*facts)) == 300 * len(SPLITS)


def test_things_show_in_their_cell() -> None:
    """Drawing is not blind to the facts: a cell with a thing differs from the bare ground."""
    scene = sample_scene(0, "test", 4)
    bare = type(scene)(scene.split, scene.index, scene.ground, ())
    gap = np.asarray(render(scene, seed=0), int) - np.asarray(render(bare, seed=0), int)
    changed = (np.abs(gap).max(-1) > 40).reshape(3, PIXELS // 3, 3, PIXELS // 3).mean((1, 3))
    assert {int(c) for c in np.flatnonzero(changed > 0.08)} == {t.place for t in scene.things}
