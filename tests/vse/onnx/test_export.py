"""ONNX files of the towers: their outputs are the model's own, for every batch and length."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vse
from data.errors import UserError
from pipelines.cli import run
from tests.vse.model.backbones.clips import VISION
from tests.vse.models import write_model
from tests.vse.world import write_world
from vse.model.gpo import GPO
from vse.model.text_batch import pad_texts
from vse.onnx.export import export_towers, open_session, write_image, write_text
from vse.onnx.towers import TablePool
from vse.runs.models import identify_model

SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
CLIP = {"library": "open_clip", "vision_cfg": VISION}
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    write_world(folder / "world", train=4, val=1, test=3)
    torch.set_num_threads(1)
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> vse.Embedder:
    """Stage 2: ViT and BERT, mask tokens around the words; read at a size it was not built for."""
    return vse.load(write_model(place / "stage2", place / "world", image={"px": 24}))


@pytest.fixture(scope="module")
def exported(place: Path, model: vse.Embedder) -> Path:
    assert model.folder is not None
    export_towers(model, identify_model(model.folder, name="m"), place / "onnx")
    return place / "onnx"


def check_texts(model: vse.Embedder, path: Path) -> None:
    session, rng = open_session(path), np.random.default_rng(0)
    for lengths in ([2], [9], [3, 3], [9, 4, 6], [64, 2, 17, 64, 5]):
        texts = [rng.integers(5, model.tokenizer.vocab_size, size=n) for n in lengths]
        for longest in {max(lengths), min(64, max(lengths) + 6)}:
            batch = pad_texts(texts, pad_id=0, length=longest)
            mask = np.arange(longest)[None, :] < np.array(lengths)[:, None]
            given = {"input_ids": batch.ids.numpy(), "attention_mask": mask.astype(np.int64)}
            [found] = session.run(["text_embedding"], given)
            with torch.no_grad():
                own = torch.nn.functional.normalize(model.model.encode_text(batch), dim=-1)
            np.testing.assert_allclose(found, own.numpy(), **CLOSE)


def check_images(model: vse.Embedder, path: Path) -> None:
    session, generator = open_session(path), torch.Generator().manual_seed(0)
    for count in (1, 2, 5):
        pixels = torch.randn(count, 3, model.px, model.px, generator=generator)
        [found] = session.run(["image_embedding"], {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            own = model.model.encode_image(pixels)
        np.testing.assert_allclose(found, own.numpy(), **CLOSE)


def test_both_towers_of_stage_2(model: vse.Embedder, exported: Path) -> None:
    check_images(model, exported / "image.onnx")
    check_texts(model, exported / "text.onnx")
    # The model is as it was, its GPOs included.
    assert isinstance(model.model.image.pool, GPO) and isinstance(model.model.text.pool, GPO)


def test_stage_1_has_no_decoder(place: Path, tmp_path: Path) -> None:
    model = vse.load(write_model(tmp_path / "stage1", place / "world", stage="1"))
    write_text(model, tmp_path / "text.onnx")
    check_texts(model, tmp_path / "text.onnx")


@pytest.mark.parametrize(
    "decoder",
    [
        {"pooling": "gpo", "unit_at_test": True, "placement": "postfix"},
        {"kind": "cross_attention", "residual": False},
    ],
    ids=["gpo-and-released-defects", "cross-attention-alone"],
)
def test_other_decoders(decoder: dict[str, Any], place: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", place / "world", decoder=decoder)
    model = vse.load(folder)
    write_text(model, tmp_path / "text.onnx")
    check_texts(model, tmp_path / "text.onnx")


@pytest.mark.parametrize(("config", "px"), [(SWIN, 44), (CLIP, 32)], ids=["swin", "clip"])
def test_other_image_towers(config: dict[str, Any], px: int, place: Path, tmp_path: Path) -> None:
    image = {"config": config, "px": px}
    model = vse.load(write_model(tmp_path / "m", place / "world", image=image))
    write_image(model, tmp_path / "image.onnx")
    check_images(model, tmp_path / "image.onnx")


def test_the_table_is_the_pool(model: vse.Embedder) -> None:
    pool = model.model.text.pool
    table = TablePool(pool, first=1, last=12)
    tokens, lengths = torch.randn(3, 9, 7), torch.tensor([9, 1, 4])
    mask = torch.arange(9)[None, :] < lengths[:, None]
    with torch.no_grad():
        expected = pool(tokens, mask=mask, lengths=lengths)
        torch.testing.assert_close(table(tokens, mask=mask, lengths=lengths), expected)


def test_what_lies_beside_the_towers(model: vse.Embedder, exported: Path, place: Path) -> None:
    about = json.loads((exported / "preprocessing.json").read_text())
    assert (about["image"]["px"], about["text"]["max_tokens"]) == (24, 64)
    assert about["image"]["mean"] == [0.485, 0.456, 0.406]
    assert about["text"]["too_long"] == "cut"
    assert about["text"]["end_ids"] == model.tokenizer.end_ids
    assert about["embedding"] == {"width": 32, "normalised": True}
    identity = identify_model(place / "stage2", name="m")
    assert about["model"]["weights_sha256"] == identity.weights_sha256
    kept, own = (folder / "tokenizer/tokenizer.json" for folder in (exported, place / "stage2"))
    assert kept.read_bytes() == own.read_bytes()
    # The exporter notes where each line of source lay.
    root = str(Path(vse.__file__).resolve().parents[1]).encode()
    for path in exported.rglob("*.onnx"):
        assert root not in path.read_bytes() and b"site-packages" not in path.read_bytes()


def test_another_output_is_refused_and_nothing_is_left(
    model: vse.Embedder, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: TablePool, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
        return tokens.mean(dim=1)

    identity = identify_model(place / "stage2", name="m")
    monkeypatch.setattr(TablePool, "forward", wrong)
    with pytest.raises(UserError, match="image.onnx gives other embeddings than the model"):
        export_towers(model, identity, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_and_missing_packages(
    model: vse.Embedder, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = identify_model(place / "stage2", name="m")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/diary.txt").write_text("x")
    with pytest.raises(UserError, match="contains other files: use another --out"):
        export_towers(model, identity, tmp_path / "mine")
    assert (tmp_path / "mine/diary.txt").read_text() == "x"
    model.save_pretrained(tmp_path / "saved")  # has a preprocessing.json, too
    with pytest.raises(UserError, match="contains other files"):
        export_towers(model, identity, tmp_path / "saved")
    assert (tmp_path / "saved/model.safetensors").is_file()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="needs onnxscript: pip install"):
        export_towers(model, identity, tmp_path / "new")


def test_a_dry_run_checks_the_folder_and_the_packages(
    model: vse.Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "diary.txt").write_text("x")
    typed = ["export-onnx", str(model.folder), "--dry-run", "--out"]
    assert run([*typed, str(tmp_path)]) == 1
    assert "contains other files" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run([*typed, str(tmp_path / "new")]) == 1
    assert "needs onnxscript" in capsys.readouterr().err
