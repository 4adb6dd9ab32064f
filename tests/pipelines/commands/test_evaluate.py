"""`d2s evaluate`: finds its model and data, prints a table or JSON, writes the figures."""

import json
import shutil
from pathlib import Path

import pytest

from data.errors import UserError
from pipelines.cli import run
from tests.vse.runs import make, run_and_die
from tests.vse.runs import run as run_plan
from tests.vse.world import dense_of, write_dense, write_world


@pytest.fixture
def project(project: Path) -> Path:
    run_plan(make("sparse", out=Path("runs/stage2"), steps=4))
    return project


def test_table_json_and_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate"]) == 0
    said = capsys.readouterr()
    assert (
        "test: 8 images, 24 captions\n" in said.out and " 16 px " in said.out and "rSum" in said.out
    )
    assert "images    world" in said.err and "dataset_world.json" in said.err
    written = json.loads(Path("runs/stage2/eval-test.json").read_text())
    assert run(["evaluate", "--json", "--out", "figures/x.json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == written == json.loads(Path("figures/x.json").read_text())
    six = [printed[f"{way}_r{cut}"] for way in ("i2t", "t2i") for cut in (1, 5, 10)]
    assert printed["rsum"] == pytest.approx(sum(six))
    assert all(0 <= value <= 100 for value in six) and printed["t2i_r10"] == 100
    assert (printed["images"], printed["captions"], printed["px"]) == (8, 24, 16)
    assert (printed["finished"], printed["step"]) == (True, 4) and "not finished" not in said.err


def test_the_split_is_the_one_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in Path("world/test").iterdir():
        path.write_bytes(b"not an image")
    assert run(["evaluate", "--split", "val"]) == 0
    assert Path("runs/stage2/eval-val.json").is_file()
    capsys.readouterr()
    assert run(["evaluate"]) == 1
    assert "cannot be read as an image: test/000.png" in capsys.readouterr().err
    assert not Path("runs/stage2/eval-test.json").exists()


def test_every_image_is_encoded_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vse.model.d2s import D2SModel

    seen: list[int] = []
    encode = D2SModel.encode_image

    def count(self: D2SModel, pixels, **kw):  # type: ignore[no-untyped-def]
        seen.append(len(pixels))
        return encode(self, pixels, **kw)

    monkeypatch.setattr(D2SModel, "encode_image", count)
    assert run(["evaluate"]) == 0
    assert sum(seen) == 8


def test_missing_images_are_left_out_and_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("world/test/003.png").unlink()
    assert run(["evaluate"]) == 1  # an eighth is more than the tenth allowed
    assert "1 of 8 test images" in capsys.readouterr().err


def test_images_of_another_split_are_not_taken_for_the_test_images(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = ["--captions", "world/dataset_world.json"]
    assert run(["evaluate", "--images", "world/train", *captions]) == 1
    said = capsys.readouterr().err
    assert "none of the 8 images" in said and "wanted test/000.png, found 000.png" in said


def test_captions_are_cut_as_in_training(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = ("data.captions_per_image=2",)
    run_plan(make("sparse", out=Path("runs/cut"), steps=4, overrides=cut))
    assert run(["evaluate", "--model", "runs/cut"]) == 0
    said = capsys.readouterr()
    assert "test: 8 images, 16 captions" in said.out and "left out 8 captions" in said.err


def test_figures_of_an_unfinished_run_say_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_die(make("sparse", out=Path("runs/part"), steps=40, save_minutes=1e-9), at=7)
    assert run(["evaluate", "--model", "runs/part", "--json"]) == 0
    said = capsys.readouterr()
    assert "not finished (step 6)" in said.err and "so far (step 4)" in said.err
    printed = json.loads(said.out)
    assert (printed["finished"], printed["step"], printed["best_step"]) == (False, 6, 4)


def test_the_recorded_place_comes_before_one_of_the_same_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = project / "other"
    write_world(other / "world", train=1, val=1, test=1)
    monkeypatch.chdir(other)
    assert run(["evaluate", "--model", "../runs/stage2"]) == 0
    assert "test: 8 images" in capsys.readouterr().out


def test_a_broken_picture_is_left_out_and_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = ("data.max_missing=0.2",)
    run_plan(make("sparse", out=Path("runs/a"), steps=4, overrides=allowed))
    path = Path("world/test/003.png")
    path.write_bytes(path.read_bytes()[:60])  # the header is whole
    assert run(["evaluate", "--model", "runs/a", "--json"]) == 3
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert (printed["images"], printed["captions"], printed["images_left_out"]) == (7, 21, 1)
    assert "left out 1 of 8 test images: the file cannot be read" in said.err
    assert any("test/003.png: damaged" in note for note in printed["left_out"])
    assert run(["evaluate", "--model", "runs/a", "--folds", "8"]) == 1
    assert "7 images cannot be split into 8 folds" in capsys.readouterr().err
    assert run(["evaluate"]) == 1  # an eighth is more than the tenth allowed
    refusal = capsys.readouterr().err
    assert "1 of 8 test images cannot be used" in refusal and "test/003.png" in refusal
    assert "--captions" in refusal and "--set" not in refusal  # which `d2s evaluate` has not
    # What is missing and what is broken add up.
    Path("world/test/004.png").unlink()
    assert run(["evaluate", "--model", "runs/a"]) == 1
    assert "2 of 8 test images cannot be used" in capsys.readouterr().err


def test_images_of_the_training_are_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "image,split,caption",
        *(f"train/{n:03d}.png,test,a square" for n in range(3)),
        *(f"test/{n:03d}.png,test,a square" for n in range(2)),
    ]
    Path("mine.txt").write_text("\n".join(lines) + "\n")
    command = ["evaluate", "--captions", "mine.txt", "--out", "mine.json", "--overwrite"]
    assert run(command) == 0
    assert "trained on 3 of these 5 images" in capsys.readouterr().err
    assert json.loads(Path("mine.json").read_text())["images_trained_on"] == 3
    assert run(["evaluate"]) == 0
    assert "trained on" not in capsys.readouterr().err
    assert json.loads(Path("runs/stage2/eval-test.json").read_text())["images_trained_on"] == 0
    Path("world/test/link.png").symlink_to("../train/005.png")
    mine = Path("mine.txt").read_text()
    Path("mine.txt").write_text(mine + "test/link.png,test,a square\n")
    assert run(command) == 0
    assert json.loads(Path("mine.json").read_text())["images_trained_on"] == 4
    Path("mine.txt").write_text(mine)
    lost = {"split": "train", "name": "train/001.png", "reason": "broken", "detail": ""}
    Path("runs/stage2/left_out.jsonl").write_text(json.dumps(lost) + "\n")
    assert run(command) == 0
    assert json.loads(Path("mine.json").read_text())["images_trained_on"] == 2
    Path("world/dataset_world.json").rename("elsewhere.json")
    assert run(command) == 0
    assert json.loads(Path("mine.json").read_text())["images_trained_on"] is None


def test_what_the_captioner_could_not_read_is_left_out_at_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("dense/world")
    texts: dict[str, str | None] = {**dense_of(Path("world")), "test/003.png": None}
    write_dense(Path("dense/world"), Path("world"), texts, statuses={"test/003.png": "too_large"})
    allowed = ("data.max_missing=0.2",)
    run_plan(make("1", out=Path("runs/a"), steps=4, overrides=allowed))
    assert run(["evaluate", "--model", "runs/a", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "7 test images used" in said and "left out 1 of 8 test images: the captioner" in said
    shutil.rmtree("dense")
    assert run(["evaluate", "--model", "runs/a"]) == 0
    assert "test: 8 images" in capsys.readouterr().out


def test_dry_run_and_missing_model_and_moved_data(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "--dry-run"]) == 0
    assert not Path("runs/stage2/eval-test.json").exists()
    assert run(["evaluate", "--model", "runs/none"]) == 1
    assert "contains no trained model" in capsys.readouterr().err
    shutil.move("world", "elsewhere")
    assert run(["evaluate"]) == 1
    assert "--images" in capsys.readouterr().err
    assert run(["evaluate", "--images", "elsewhere"]) == 0
    assert "elsewhere/dataset_world.json" in capsys.readouterr().err


def test_nested_widths_are_measured(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = make("sparse", out=Path("runs/nested"), steps=4, overrides=("loss.widths=[4, 16]",))
    run_plan(spec)
    assert run(["evaluate", "--model", "runs/nested"]) == 0
    assert "first 4 values" in capsys.readouterr().out
    found = json.loads(Path("runs/nested/eval-test.json").read_text())
    assert [cut["width"] for cut in found["widths"]] == [4, 16]
    assert all(0 < cut["rsum"] <= 600 for cut in found["widths"])
    assert run(["evaluate", "--model", "runs/nested", "--model", "runs/stage2"]) == 0
    assert "first 4 values" not in capsys.readouterr().out  # of one of them alone
    with pytest.raises(UserError, match="widths"):
        make("sparse", out=Path("runs/x"), overrides=("loss.widths=[16, 4]",))
