"""Images that cannot be decoded: left out before the first step, and what is said does help."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from data.files.hashes import hash_bytes
from data.images import ImageError, Status, read_file
from tests.vse.runs import make, run, run_and_die
from tests.vse.world import dense_of, write_dense, write_project
from vse.runs.folder import read_log
from vse.samples.images import find_broken
from vse.training.run import train

FILES = ("data.cache_images=false",)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    yield tmp_path


def cut(name: str) -> bytes:
    """Leave the header of an image whole and cut its pixels; returns what it was."""
    path = Path("world", name)
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    return whole


def left_out(folder: str) -> list[tuple[str, str]]:
    lines = Path(folder, "left_out.jsonl").read_text().splitlines()
    return [(row["split"], row["name"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize("stage", ["1", "sparse"])
@pytest.mark.parametrize("cached", ["true", "false"])
def test_cut_pixels_are_left_out_before_the_first_step(
    project: Path, stage: str, cached: str
) -> None:
    cut("train/004.png"), cut("val/002.png")
    allowed = (f"data.cache_images={cached}", "data.max_missing=0.2")
    events = run(make(stage, out=Path("runs/a"), steps=4, overrides=allowed))
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert any("left out 1 of 48 train images" in text and "004.png" in text for text in warnings)
    assert any("left out 1 of 8 val images" in text for text in warnings)
    assert left_out("runs/a") == [("train", "train/004.png"), ("val", "val/002.png")]
    assert events[-1]["event"] == "finish"
    assert json.loads(Path("runs/a/config.json").read_text())["data"]["split_counts"]["train"] == 47


def test_more_of_them_than_is_allowed_are_refused_before_the_first_step(project: Path) -> None:
    for number in range(5):
        cut(f"train/{number:03d}.png")
    with pytest.raises(UserError, match=r"5 of 48 train images.*data.max_missing=0.1\d"):
        run(make("sparse", out=Path("runs/a"), steps=4, overrides=FILES))
    assert not Path("runs/a/log.jsonl").exists()


@pytest.mark.parametrize("then", ["gone", "mended", "as it was"])
def test_a_run_goes_on_whatever_became_of_an_image_that_it_left_out(
    project: Path, then: str
) -> None:
    whole = cut("train/004.png")
    run_and_die(make("sparse", out=Path("runs/a"), overrides=FILES), at=6)
    path = Path("world/train/004.png")
    if then == "gone":
        path.unlink()
    elif then == "mended":
        path.write_bytes(whole)
    events = run(make("sparse", out=Path("runs/a"), overrides=FILES))
    assert [e["step"] for e in events if e["event"] == "resume"] == [4]
    assert events[-1]["event"] == "finish" and left_out("runs/a") == [("train", "train/004.png")]


def test_an_image_that_breaks_on_the_way_is_named_and_mending_it_goes_on(project: Path) -> None:
    spec = make("sparse", out=Path("runs/a"), overrides=FILES)
    names = [f"train/{number:03d}.png" for number in range(48)]
    kept: dict[str, bytes] = {}

    def spoil(event: dict[str, Any]) -> None:
        if event["event"] == "tick" and event["step"] == 5:
            kept.update({name: cut(name) for name in names})

    with pytest.raises(UserError, match="intact copy"):
        train(spec, report=spoil)
    with pytest.raises(UserError, match="runs/a started with.*--out"):
        run(make("sparse", out=Path("runs/a"), overrides=(*FILES, "data.max_missing=1.0")))
    for name, content in kept.items():
        Path("world", name).write_bytes(content)
    assert run(make("sparse", out=Path("runs/a"), overrides=FILES))[-1]["event"] == "finish"
    assert read_log(Path("runs/a"))[-1]["event"] == "finish"


def test_an_image_that_can_be_read_again_is_used_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passing fault, such as missing permission, changes neither size nor time of the file."""

    def fail(path: Path) -> bytes:
        if path.match("train/004.png"):
            raise ImageError(Status.DECODE_ERROR, "cannot be read: Permission denied")
        return read_file(path)

    with monkeypatch.context() as patch:
        patch.setattr("vse.samples.images.read_file", fail)
        run(make("sparse", out=Path("runs/a"), steps=2, overrides=FILES))
    assert left_out("runs/a") == [("train", "train/004.png")]
    run(make("sparse", out=Path("runs/b"), steps=2, overrides=FILES))
    assert not Path("runs/b/left_out.jsonl").exists()


def test_cached_faults_are_checked_again_only_if_asked(project: Path) -> None:
    """Only by the main process: others would see another corpus if an image recovered meanwhile."""
    path = Path("world/train/004.png")
    info, whole = path.stat(), cut("train/004.png")
    # Padded to the same size and time.
    path.write_bytes(whole[:60] + bytes(len(whole) - 60))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def find(again: bool) -> dict[int, str]:
        return find_broken([path], folder=project, report=lambda *n: None, again=again)

    assert list(find(True)) == [0]
    path.write_bytes(whole)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert list(find(False)) == [0] and find(True) == find(False) == {}


def test_what_the_captioner_has_decoded_is_not_decoded_again(project: Path) -> None:
    names = dense_of(Path("world"))
    more = {name: {"image_sha256": hash_bytes(Path("world", name).read_bytes())} for name in names}
    write_dense(Path("dense/world"), Path("world"), names, more=more)
    spec = make("1", out=Path("runs/a"), steps=1)
    assert all(sample.decoded for samples in spec.corpus.splits.values() for sample in samples)


def test_one_image_alone_has_no_negative(project: Path) -> None:
    rows = json.loads(Path("world/dataset_world.json").read_text())["images"]
    for count, told in ((1, "1 training images.*--captions"), (0, "0 training images.*--captions")):
        kept = [row for row in rows if row["split"] != "train"] + rows[:count]
        Path("world/dataset_world.json").write_text(json.dumps({"images": kept}))
        with pytest.raises(UserError, match=told):
            make("sparse", out=Path("runs/a"), overrides=("data.items=captions",), batch_size=2)
