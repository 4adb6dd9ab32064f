"""A trained model loaded as a library."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vse
from data.errors import UserError
from pipelines.cli import run as d2s
from tests.vse.models import write_model
from tests.vse.runs import make, run
from tests.vse.world import write_world
from vse.embedders import embedder as embedders
from vse.embedders.by_name import find_reference
from vse.embedders.embedder import TrainedEncoder
from vse.evaluation.split import evaluate_split, open_corpus
from vse.model.encoding import embed_images, find_device
from vse.runs.folder import read_log
from vse.runs.models import identify_model
from vse.samples.images import ImageList


@pytest.fixture
def project(project: Path) -> Path:
    run(make("1", out=Path("runs/stage1"), steps=4))
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=4))
    return project


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with random weights, for what training does not matter to."""
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path / "world", train=4, val=1, test=3)
    return write_model(Path("runs/made"), tmp_path / "world")


def test_load_encode_compare_and_evaluate(project: Path) -> None:
    model = vse.load("runs/stage2")
    paths = sorted(Path("world/test").iterdir())
    images = model.encode_image(paths)
    texts = model.encode_text(["a red square", "a blue square at the top"])
    assert images.shape == (8, 32) and texts.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)
    opened = model.encode_image([Image.open(path) for path in paths], batch_size=3)
    np.testing.assert_allclose(opened, images, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.similarity(images, texts), images @ texts.T)

    # The library, the evaluation of a split and the trainer's own validation agree.
    corpus, _, _ = open_corpus(model.config, split="test")
    encoder = TrainedEncoder.load(Path("runs/stage2"), name="m")
    result = evaluate_split(encoder, corpus, split="test")
    np.testing.assert_allclose(result.evaluation.images, images, rtol=1e-4, atol=1e-6)
    assert len(result.captions) == 24 and result.evaluation.scores([3]).shape == (1, 8)
    corpus, _, _ = open_corpus(model.config, split="val")
    metrics = evaluate_split(encoder, corpus, split="val").evaluation.metrics
    logged = [e for e in read_log(Path("runs/stage2")) if e["event"] == "evaluation"][-1]
    assert metrics["rsum"] == pytest.approx(logged["rsum"])


def test_an_image_may_come_in_many_forms(made: Path) -> None:
    model = vse.load(made)
    path = Path("world/test/000.png")
    expected = model.encode_image(path)
    assert expected.shape == (1, 32)
    pixels = np.asarray(Image.open(path))
    for form in (str(path), path.read_bytes(), Image.open(path), pixels):
        np.testing.assert_array_equal(model.encode_image(form), expected)
        np.testing.assert_array_equal(model.encode_image([form]), expected)
    # Transparency and orientation are heeded in memory as in a file.
    clear = Image.fromarray(np.dstack([pixels, np.full((16, 16), 60, dtype=np.uint8)]))
    clear.getexif()[0x0112] = 6
    clear.save("clear.png", exif=clear.getexif())
    seen = model.encode_image([Path("clear.png"), Image.open("clear.png")])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.allclose(seen[0], expected[0], atol=1e-3)
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, 32)
    np.testing.assert_array_equal(model.encode_text("a red square").shape, (1, 32))


def test_what_is_no_image_is_named(made: Path) -> None:
    model = vse.load(made)
    wrong: dict[str, Any] = {
        "image 1 is a URL": "https://example.org/a.jpg",
        r"image 1 is an array of float32 \(3, 16, 16\)": np.zeros((3, 16, 16), np.float32),
        "must be uint8": np.zeros((16, 16, 2), np.uint8),
        r"image 1 cannot be read \(not an image": b"no image",
        "none.jpg cannot be read as an image": Path("none.jpg"),
        "image 1 is a int": 7,
    }
    for complaint, form in wrong.items():
        with pytest.raises(UserError, match=complaint):
            model.encode_image(["world/test/000.png", form])


def test_half_precision_is_close_and_gives_float32(made: Path) -> None:
    texts, paths = ["a red square", "blue on green"], sorted(Path("world/test").iterdir())
    exact, fast = vse.load(made), vse.load(made, dtype="bfloat16")
    for name, given in (("encode_image", paths), ("encode_text", texts)):
        full, half = getattr(exact, name)(given), getattr(fast, name)(given)
        assert half.dtype == np.float32 and not np.array_equal(half, full)
        assert ((full * half).sum(axis=1) > 0.999).all()
    with pytest.raises(UserError, match="dtype is 'int8'; it must be one of float32"):
        vse.load(made, dtype="int8")


def test_threads_and_half_precision_give_the_same_ranks(project: Path) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        encoder = TrainedEncoder.load(Path("runs/stage2"), name="m", dtype=dtype)
        model = encoder.embedder
        corpus, _, _ = open_corpus(model.config, split="test")
        found[dtype] = evaluate_split(encoder, corpus, split="test").evaluation
        assert encoder.describe()["dtype"] == dtype
    paths = sorted(Path("world/test").iterdir())
    pixels = ImageList(paths, px=model.px)
    one, many = (
        embed_images(model.model, pixels, batch_size=3, threads=threads) for threads in (0, 4)
    )
    np.testing.assert_array_equal(one, many)
    half, whole = found["bfloat16"], found["float32"]
    assert not np.array_equal(half.images, whole.images)
    # Ranks move where scores are closer than half precision tells apart.
    assert half.metrics["rsum"] == pytest.approx(whole.metrics["rsum"], abs=25)


def test_results_belong_to_the_weights_that_were_loaded(made: Path) -> None:
    encoder = find_reference(str(made)).load()
    before = identify_model(made, name="m")
    write_model(made, Path("world"), seed=1)
    assert identify_model(made, name="m") != before
    about = encoder.describe()
    assert about["weights_sha256"] == before.weights_sha256
    assert about["fingerprint"] == before.fingerprint


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --model runs/made --images world --out new.json",
        "embed --model runs/made --images world --out new.parquet",
        "search --index old.parquet --image world/test/000.png --html new.html",
        "export-onnx runs/made --out new",
    ],
)
def test_weights_saved_while_they_are_loaded_are_not_taken_for_others(
    made: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert d2s(["embed", "--model", "runs/made", "--images", "world", "--out", "old.parquet"]) == 0
    rebuild = embedders.rebuild

    def save_meanwhile(description: dict[str, Any]) -> Any:
        write_model(made, Path("world"), seed=1)
        return rebuild(description)

    monkeypatch.setattr(embedders, "rebuild", save_meanwhile)
    capsys.readouterr()
    assert d2s(command.split()) == 1
    assert "changed while it was loaded" in capsys.readouterr().err
    left = {path.name for path in Path().iterdir()}
    assert left <= {"world", "runs", "old.parquet", "new.parquet.parts"}


def test_what_is_no_model_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Anyone could own the repository runs/none on the Hub.
    monkeypatch.setattr("vse.runs.models._fetch", None)
    with pytest.raises(UserError, match="contains no trained model"):
        vse.load("runs/none")
    Path("runs/stage1/model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        vse.load("runs/stage1")
    config = json.loads(Path("runs/stage2/config.json").read_text())
    config["model"]["width"] = 64
    Path("runs/stage2/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not fit its config.json"):
        vse.load("runs/stage2")
    Path("runs/stage2/model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors yet"):
        vse.load("runs/stage2")


def test_importing_vse_does_not_import_torch() -> None:
    import subprocess
    import sys

    names = "vse, vse.training.spec, vse.samples.discovery, vse.runs.config"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_a_torch_for_cuda_on_a_machine_without_a_gpu(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the plain package index has it; it names CUDA unless it is asked to look."""

    def current_accelerator(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert find_device() == torch.device("cpu")
    assert vse.load("runs/stage2").device.type == "cpu"
