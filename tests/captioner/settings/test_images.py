"""The default output folder, and what the run's settings say about its sources."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioner.run.session import caption
from captioner.settings import prepare
from captioner.settings.images import name_out
from data.dense.run import read_run
from data.errors import UserError
from tests.captioner.images import write_images


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("photos", "photos"),
        ("photos/", "photos"),
        (".", "here"),
        ("photos/..", "here"),
        # As it was typed, not what it leads to.
        ("link", "link"),
        ("list.of.txt", "list"),
        ("link.txt", "link"),
        ("hf:someone/birds", "birds"),
        ("shards/*.tar", "images"),
    ],
)
def test_it_has_the_name_of_the_images(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "photos").mkdir(parents=True)
    (here / "list.of.txt").touch()
    (here / "link").symlink_to("photos")
    (here / "link.txt").symlink_to("list.of.txt")
    monkeypatch.chdir(here)
    assert name_out(given) == Path("dense", name)


@pytest.mark.parametrize("kind", ["released", "coco"])
def test_other_captions_in_a_folder_are_another_setting(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path / "i", 2)
    changed = write_captions(tmp_path / kind, kind)
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "images": tmp_path / "i"}
    arguments |= {"captions": tmp_path / kind, "out": tmp_path / "out"}
    assert caption(stop=lambda: True, **arguments).interrupted
    content = changed.read_text()
    changed.write_text(content.replace("wall", "door"))
    with pytest.raises(UserError, match="captions"):
        caption(**arguments)
    changed.write_text(content)
    assert caption(**arguments).complete


def test_a_run_without_a_hash_of_its_folder_of_captions_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "i", 2)
    write_captions(tmp_path / "released", "released")
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "images": tmp_path / "i"}
    arguments |= {"captions": tmp_path / "released", "out": tmp_path / "out"}
    with monkeypatch.context() as earlier:
        earlier.setattr(prepare, "hash_captions", lambda _: "")
        assert caption(stop=lambda: True, **arguments).interrupted
    run_id = read_run(tmp_path / "out")["run_id"]
    assert caption(**arguments).complete and caption(**arguments).generated == 0
    assert read_run(tmp_path / "out")["run_id"] == run_id
    with pytest.raises(UserError, match="captions"):
        caption(**arguments | {"captions": None})


def write_captions(folder: Path, kind: str) -> Path:
    """Captions of 0000.png and 0001.png; returns the file that has them."""
    if kind == "released":
        folder.mkdir()
        (folder / "train_ids.txt").write_text("0\n1\n")
        (folder / "id_mapping.json").write_text('{"0": "0000.png", "1": "0001.png"}')
        (folder / "train_caps.txt").write_text("a wall\na red wall\n")
        return folder / "train_caps.txt"
    (folder / "annotations").mkdir(parents=True)
    images = [{"id": number, "file_name": f"000{number}.png"} for number in range(2)]
    notes = [{"image_id": number, "caption": f"wall {number}"} for number in range(2)]
    path = folder / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    return path


@pytest.mark.parametrize("out", [None, "set/texts", "set"])
def test_a_run_does_not_write_into_its_data_set(
    out: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("set"), 2)
    (tmp_path / "link").symlink_to("set")
    if out is None:
        monkeypatch.chdir("set")
    arguments: dict[str, Any] = {"model": "any", "engine": "scripted", "out": out}
    with pytest.raises(UserError, match="inside the data set"):
        caption(images="hf:." if out is None else "hf:link", **arguments)
    assert [path.suffix for path in (tmp_path / "set").iterdir()] == [".png"] * 2
