"""Both stages on towers of timm and open_clip, settings of theirs included."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vse
from data.errors import UserError
from tests.vse.model.backbones.clips import register, write_weights
from tests.vse.runs import make, run
from tests.vse.world import write_project
from vse.training.run import train

TIMM = {
    "library": "timm",
    "name": "vit_tiny_patch16_224",
    "args": {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8},
}
OPEN_CLIP = {
    "library": "open_clip",
    "text_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 1},
}


def stop_at_5(event: dict[str, Any]) -> None:
    if event["event"] == "tick" and event["step"] == 5:
        os.kill(os.getpid(), signal.SIGTERM)


def test_from_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, image={"config": None}, text={"config": None})
    overrides = (
        f"image.config={json.dumps(TIMM)}",
        f"text.config={json.dumps(OPEN_CLIP)}",
        "text.max_tokens=32",
    )
    run(make("1", out=Path("runs/stage1"), overrides=overrides, steps=4))
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=4))
    larger = make("2", out=Path("runs/more"), init=Path("runs/stage1"), overrides=("image.px=24",))
    with pytest.raises(UserError, match="those of this recipe .*pos_embed"):
        run(larger)
    model = vse.load("runs/stage2")
    images = model.encode_image(sorted(Path("world/test").iterdir()))
    texts = model.encode_text(["a red square", "a blue square at the top on green"])
    alone = model.encode_text(["a red square"])
    assert images.shape == (8, 32) and np.isfinite(model.similarity(images, texts)).all()
    np.testing.assert_allclose(alone[0], texts[0], rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_nothing_in_a_resnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its BatchNorms count each batch once, though they see it twice."""
    monkeypatch.chdir(tmp_path)
    resnet = {"config": None, "name": "timm:resnet10t", "pretrained": False, "px": 32}
    write_project(tmp_path, image=resnet)
    for name in ("true", "false"):
        settings = (f"image.checkpointing={name}", "data.cache_images=false")
        run(make("sparse", out=Path("runs", name), overrides=settings, steps=3, eval_every=3))
    found = [load_file(f"runs/{name}/model.safetensors") for name in ("true", "false")]
    assert found[0]["image.backbone.model.bn1.num_batches_tracked"] == 3
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_stage_2_may_read_larger_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    run(make("1", out=Path("runs/stage1"), steps=4))
    larger = make("2", out=Path("runs/stage2"), init=Path("runs/stage1"),
                  overrides=("image.px=40",), steps=4)  # fmt: skip
    assert run(larger)[-1]["event"] == "finish"
    model = vse.load("runs/stage2")
    assert model.px == 40 and model.model.image.token_count(40) == 26


def test_by_name_frozen_in_part_and_with_rates_by_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, image={"config": None}, text={"config": None})
    register(tmp_path)
    write_weights("d2s-vit", Path("clip.pt"))
    name = f"open_clip:d2s-vit/{tmp_path / 'clip.pt'}"
    overrides = (
        f"image.name={name}",
        f"text.name={name}",
        "text.max_tokens=16",
        "image.freeze=1",
        "text.freeze=all",
        "image.checkpointing=true",
        "text.checkpointing=true",
        "optim.layer_decay=0.5",
    )
    with pytest.raises(UserError, match="text.max_tokens is 64, but the text tower has only 16"):
        run(make("1", out=Path("runs/new"), overrides=(*overrides, "text.max_tokens=64")))
    run(make("1", out=Path("runs/stage1"), overrides=overrides, steps=4))
    start = torch.load("clip.pt", weights_only=True)
    found = load_file("runs/stage1/model.safetensors")
    block = "transformer.resblocks.{}.mlp.c_fc.weight"
    for part, theirs, index, moved in (
        ("image", "visual", 0, False),
        ("image", "visual", 1, True),
        ("text", "text", 1, False),
    ):
        weight = found[f"{part}.backbone.model.{block.format(index)}"]
        assert torch.equal(weight, start[f"{theirs}.{block.format(index)}"]) is not moved
    # The weights are needed for the first start alone, and checkpointing changes nothing.
    Path("clip.pt").rename("gone.pt")
    spec = make("2", out=Path("runs/stage2"), init=Path("runs/stage1"))
    with pytest.raises(KeyboardInterrupt):
        train(spec, report=stop_at_5)
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"),
             overrides=("image.checkpointing=false",)))  # fmt: skip
    run(make("2", out=Path("runs/whole"), init=Path("runs/stage1")))
    whole, cut = (load_file(f"runs/{n}/model.safetensors") for n in ("whole", "stage2"))
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)
    assert vse.load("runs/stage2").encode_text(["A red SQUARE!"]).shape == (1, 32)
    with pytest.raises(UserError, match="does not specify weights"):
        run(make("1", out=Path("runs/new"), overrides=overrides, steps=4))


def test_stretched_positions_are_trained_carried_over_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, text={"config": None, "max_tokens": 60})
    own = (f"text.config={json.dumps(OPEN_CLIP)}",)
    run(make("1", out=Path("runs/stage1"), steps=2, overrides=(*own, "text.positions=60")))
    run(make("2", out=Path("runs/stage2"), init=Path("runs/stage1"), steps=2))
    for stage in ("stage1", "stage2"):
        backbone = vse.load(f"runs/{stage}", device="cpu").model.text.backbone
        assert backbone.positions == 60
    with pytest.raises(UserError, match="only 32 positions"):
        run(make("1", out=Path("runs/x"), overrides=own))
