"""`d2s score`: writes the scores of a run, prints figures, refuses what cannot be scored."""

import json
from pathlib import Path

import pytest
from PIL import Image

from captioner.run.session import caption
from captioner.score.scores import read_about, read_scores
from data.dense.run import read_run
from data.dense.shards import read_rows
from pipelines.cli import run
from tests.captioner.images import write_images
from tests.captioner.score.clip import write_clip

CLIP = ["--clip", "open_clip:clip/whole", "--device", "cpu"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), 5, prefix="it's <b>/")
    caption(model="any", engine="scripted", images=Path("photos"), shard_size=2)
    write_clip(Path("clip"))
    names = read_rows(Path("dense/photos"), ["file_name"]).column(0).to_pylist()
    Path("objects.json").write_text(json.dumps({name: ["dog", "lamp"] for name in names[:4]}))
    return tmp_path


def test_both_scores(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "dense/photos", *CLIP, "--objects", "objects.json", "--json"]) == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["rows"] == printed["clip"]["texts"] == 5 and printed["clip"]["errors"] == 0
    assert printed["chair"]["texts"] == 4
    assert "of 4 of the 5 images" in said.err and "left out: lamp\n" in said.err
    table = read_scores(Path("dense/photos/scores.parquet"))
    assert table is not None
    ids = read_rows(Path("dense/photos"), ["sample_id"]).column(0)
    assert table.column("sample_id").equals(ids)
    mean = sum(table.column("clipscore").to_pylist()) / 5
    assert printed["clip"]["clipscore"] == pytest.approx(mean)
    about = read_about(table)
    assert len(about["shards"]) == 3 and about["clip"]["model"] == "clip/whole"
    assert len(about["chair"]["objects_sha256"]) == 64
    assert sorted(path.name for path in Path("dense/photos").glob("scores*")) == ["scores.parquet"]
    read_rows(Path("dense/photos"))  # the run is as whole as before


def test_one_after_the_other_is_both(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "dense/photos", *CLIP]) == 0
    first = capsys.readouterr().out
    assert "CLIPScore" in first and "CHAIR" not in first
    assert run(["score", "dense/photos", "--objects", "objects.json"]) == 0
    both = capsys.readouterr().out
    assert "CLIPScore" in both and "CHAIRi" in both and "CHAIRs" in both


def test_a_trial_leaves_the_scores_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "dense/photos", *CLIP, "--dry-run"]) == 0
    assert "dry run: would write dense/photos/scores.parquet" in capsys.readouterr().out
    assert list(Path("dense/photos").glob("scores*")) == []
    assert run(["score", "dense/photos", *CLIP, "--limit", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert [path.name for path in Path("dense/photos").glob("scores*")] == [
        "scores-first-3.parquet"
    ]


def test_an_image_that_is_gone_makes_it_partial(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/it's <b>/0001.png").unlink()
    assert run(["score", "dense/photos", *CLIP]) == 3
    assert "images that could not be read: 1" in capsys.readouterr().out


def test_what_was_captioned_is_not_too_large(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit of the run is also that of the scores and of the page."""
    Path("large").mkdir()
    Image.new("1", (10_010, 10_000)).save("large/map.png")
    made = caption(model="any", engine="scripted", images="large", max_image_pixels=200_000_000)
    assert made.ok == 1
    assert run(["score", "dense/large", *CLIP, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clip"]["errors"] == 0
    assert run(["review", "dense/large", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 1


def test_images_elsewhere(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").rename("moved")
    assert run(["score", "dense/photos", *CLIP]) == 1
    assert "--images" in capsys.readouterr().err
    assert run(["score", "dense/photos", *CLIP, "--images", "gone"]) == 1
    assert "gone does not exist" in capsys.readouterr().err
    assert run(["score", "dense/photos", *CLIP, "--images", "moved"]) == 0
    # CHAIR needs no image.
    assert run(["score", "dense/photos", "--objects", "objects.json"]) == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "--clip MODEL, --objects FILE, or both"),
        (["--clip", "ViT-B-32"], 1, "open_clip:ARCH/WEIGHTS"),
        (["--clip", "open_clip:ViT-B-32"], 1, "open_clip:ARCH/WEIGHTS"),
        (["--clip", "open_clip:clip"], 1, "has no open_clip_config.json"),
        ([*CLIP, "--synonyms", "s.yaml"], 2, "requires --objects"),
        (["--objects", "none.json"], 1, "none.json cannot be read"),
        (["--objects", "other.json"], 1, "has none of the 5 images"),
        (["--clip", "open_clip:ViT-B-32/w.pt"], 1, "w.pt"),
        *(
            (["--objects", "objects.json", *option], 2, f"{option[0]} requires --clip")
            for option in (
                ["--images", "photos"],
                ["--device", "cpu"],
                ["--batch-size", "32"],
                ["--workers", "2"],
            )
        ),
    ],
)
def test_wrong_calls(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    Path("other.json").write_text(json.dumps({"x.jpg": ["dog"]}))
    assert run(["score", "dense/photos", *options]) == code
    assert message in capsys.readouterr().err
    assert not Path("dense/photos/scores.parquet").exists()


def test_what_is_no_run_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "photos", *CLIP]) == 1
    assert "is not the folder of a captioning run" in capsys.readouterr().err
    assert read_run(Path("dense/photos"))["complete"]
