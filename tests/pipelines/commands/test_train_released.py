"""`d2s train` on the released code's files alone, as typed; with their real text where it lies."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sparse.released import (
    read_caption_lines,
    read_dense_lines,
    read_id_mapping,
    read_ids,
)
from pipelines.cli import run
from tests.vse.released_world import write_released, write_split
from tests.vse.world import write_recipe, write_world
from vse.runs.folder import read_log

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "f30k_text"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny world with its texts in the released formats and no run of ours."""
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world")
    write_recipe(tmp_path / "tiny.yaml")
    write_released(tmp_path / "text", tmp_path / "world")
    (tmp_path / "world" / "dataset_world.json").unlink()
    return tmp_path


def import_texts() -> None:
    texts = ["text/f30k_train.jsonl", "--ids", "text/train_ids.txt", "--id-mapping",
             "text/id_mapping.json"]  # fmt: skip
    assert run(["import", *texts, "--out", "dense/world", "--images", "world"]) == 0


def test_both_stages_and_evaluation(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--captions", "text", "--images", "world"]
    stage_1 = ["train", "--stage", "1", *given, "--recipe", "tiny.yaml", "--steps", "40"]
    assert run(stage_1) == 0
    said = capsys.readouterr().err
    assert "dense     text (with the captions)" in said
    assert "(released; 48 train, 8 val, 8 test images used)" in said
    found = [e for e in read_log(Path("runs/stage1")) if e["event"] == "evaluation"]
    # A pair of the wrong image could not be learnt: the texts name what the pictures show.
    assert found[-1]["chosen_by"] == "dense" and found[-1]["rsum"] > 2 * 100 * (1 + 5 + 8) / 8
    # Stage 2 reads what stage 1 has read, not what it would find now.
    import_texts()
    assert run(["train", "--stage", "2", "--steps", "4"]) == 0
    assert "dense     text (with the captions)" in capsys.readouterr().err
    assert run(["evaluate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 8


def test_an_image_that_cannot_be_read_is_left_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("world/train/003.png").write_bytes(b"not an image")
    given = ["--captions", "text", "--images", "world", "--recipe", "tiny.yaml", "--dry-run"]
    assert run(["train", "--stage", "1", *given]) == 0
    assert "left out 1 of 48 train images: the file cannot be read" in capsys.readouterr().err


def test_dense_text_of_two_places(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_texts()
    Path("text").rename("world/text")
    for path in Path("world/text").iterdir():
        path.rename(Path("world", path.name))
    capsys.readouterr()
    plain = ["train", "--stage", "1", "--images", "world", "--recipe", "tiny.yaml", "--dry-run"]
    assert run(plain) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "both in world and in dense/world" in line and "--dense dense/world" in line
    assert run([*plain, "--captions", "world"]) == 0
    assert "dense     world (with the captions)" in capsys.readouterr().err
    assert run([*plain, "--dense", "dense/world"]) == 0
    assert "dense     dense/world" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="the released Flickr30K texts are not here")
def test_the_real_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts of Flickr30K's test split play the three splits; the pictures are noise."""
    monkeypatch.chdir(tmp_path)
    ids = list(read_ids(SHARED / "test_ids.txt").ids)
    captions = read_caption_lines(SHARED / "test_caps.txt", images=len(ids))
    dense = [line.text for line in read_dense_lines(SHARED / "f30k_test.jsonl")]
    mapping = read_id_mapping(SHARED / "id_mapping.json")
    parts = {"train": slice(0, 64), "dev": slice(64, 72), "test": slice(72, 80)}
    for name, part in parts.items():
        write_split(tmp_path / "text", name, ids[part], captions[part], dense[part])
    (tmp_path / "text" / "id_mapping.json").write_text(json.dumps(mapping))
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for image_id in ids[:80]:
        pixels = draw.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / mapping[image_id])
    write_recipe(tmp_path / "tiny.yaml", text={"vocab_size": 3000})
    arguments = ["train", "--stage", "1", "--captions", "text", "--images", "photos"]
    assert run([*arguments, "--recipe", "tiny.yaml", "--steps", "2"]) == 0
    said = capsys.readouterr().err
    assert "(released; 64 train, 8 val, 8 test images used)" in said
    assert "of 64 dense texts (" in said and "are longer than 64 tokens: they are truncated" in said
