"""A trained model loaded as a library."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vse
from data.errors import UserError
from tests.vse.runs import make, run
from tests.vse.world import write_project
from vse.benchmark import evaluate_split, open_corpus
from vse.checkpoint import read_log


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    run(make("1", out=Path("runs/stage1"), steps=4))
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=4))
    return tmp_path


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
    corpus, _, _ = open_corpus(model, split="test")
    result = evaluate_split(model, corpus, split="test")
    np.testing.assert_allclose(result.evaluation.images, images, rtol=1e-4, atol=1e-6)
    assert len(result.captions) == 24 and result.evaluation.scores([3]).shape == (1, 8)
    corpus, _, _ = open_corpus(model, split="val")
    metrics = evaluate_split(model, corpus, split="val").evaluation.metrics
    logged = [e for e in read_log(Path("runs/stage2")) if e["event"] == "evaluation"][-1]
    assert metrics["rsum"] == pytest.approx(logged["rsum"])


def test_what_is_no_model_is_said(project: Path) -> None:
    with pytest.raises(UserError, match="holds no trained model.*--model"):
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

    code = "import sys, vse, vse.plan, vse.places, vse.run_state; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
