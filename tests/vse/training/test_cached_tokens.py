"""Frozen backbones whose tokens are kept: the losses of a run that computes them anew."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.errors import UserError
from tests.vse.runs import make, run, run_and_die
from vse.model.backbones import Backbone
from vse.model.d2s import D2SModel
from vse.runs.folder import read_log
from vse.training.spec import RunSpec

STILL = (
    "image.freeze=all",
    "text.freeze=all",
    "data.crop_min=1.0",
    "data.flip=0",
    "data.word_mask=0",
)


def losses(name: str) -> list[float]:
    return [event["loss"] for event in read_log(Path("runs", name)) if event["event"] == "step"]


def spec(stage: str, name: str, *more: str, init: str | None = None, **options: Any) -> RunSpec:
    start = None if init is None else Path("runs", init)
    return make(stage, out=Path("runs", name), init=start, overrides=(*STILL, *more), **options)


@pytest.mark.parametrize("more", [(), ("optim.chunk=5", "image.token_drop=0")])
def test_the_losses_are_those_of_a_run_without(project: Path, more: tuple[str, ...]) -> None:
    cached = ("data.cache_tokens=true", *more)
    for name, settings in (("plain", more), ("cached", cached)):
        run(spec("1", f"{name}1", *settings, steps=6))
        # From the same weights, or rounding in stage 1 would show.
        run(spec("2", f"{name}2", *settings, init="plain1", steps=6))
        run(spec("joint", f"{name}3", *settings, steps=6))
    for stage in "123":
        assert losses(f"cached{stage}") == pytest.approx(losses(f"plain{stage}"), abs=2e-4)
        found, expected = (
            [e["rsum"] for e in read_log(Path("runs", f"{n}{stage}")) if e["event"] == "evaluation"]
            for n in ("cached", "plain")
        )
        assert found[0] == pytest.approx(expected[0], abs=30)


def test_each_image_and_text_passes_its_backbone_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward = D2SModel.forward

    def count(self: Any, *arguments: Any, **options: Any) -> Any:
        for module in self.modules():
            if isinstance(module, Backbone):
                module.register_forward_hook(lambda *_: read.append(1))
        return forward(self, *arguments, **options)

    monkeypatch.setattr(D2SModel, "forward", count)
    run(spec("1", "a", "data.cache_tokens=true", steps=6))
    assert not read
    files = {path.name: path.stat().st_mtime_ns for path in Path("runs/cache").glob("*tokens-*")}
    # Another run of the same backbones finds them.
    run(spec("1", "b", "data.cache_tokens=true", "optim.lr=1e-4", steps=2))
    again = {path.name: path.stat().st_mtime_ns for path in Path("runs/cache").glob("*tokens-*")}
    assert again == files
    run(spec("1", "c", steps=1))
    assert read


@pytest.mark.parametrize("part", ["image", "text"])
def test_a_single_frozen_backbone_is_read_once(project: Path, part: str) -> None:
    other = "text" if part == "image" else "image"
    trained = (f"{other}.freeze=none", "data.word_mask=0.3" if part == "image" else "data.flip=0.5")
    for name, cached in (("plain", "false"), ("cached", "true")):
        run(spec("joint", name, f"data.cache_tokens={cached}", *trained, steps=6))
    assert losses("cached") == pytest.approx(losses("plain"), abs=2e-4)
    kinds = {path.name.split("-")[0] for path in Path("runs/cache").glob("*-tokens-*.npy")}
    assert kinds == {part}


@pytest.mark.parametrize("setting", ["data.flip=0.5", "data.word_mask=0.1", "data.sentences=2"])
def test_what_would_change_the_tokens_is_named(project: Path, setting: str) -> None:
    with pytest.raises(UserError, match=setting.split("=")[0]):
        spec("1", "a", "data.cache_tokens=true", setting)


def test_without_a_frozen_backbone_there_is_nothing_to_keep(project: Path) -> None:
    with pytest.raises(UserError, match=r"image\.freeze=all or text\.freeze=all"):
        spec("1", "a", "data.cache_tokens=true", "image.freeze=none", "text.freeze=none")


@pytest.mark.parametrize("part", ["image", "text"])
def test_another_architecture_has_other_tokens(project: Path, part: str) -> None:
    """Though its weights are the same: an epsilon is in no shape."""
    other = f"{part}.config.layer_norm_eps=9.0"
    for name, settings in {"one": (), "other": (other,)}.items():
        run(spec("1", name, "data.cache_tokens=true", *settings, steps=2))
    run(spec("1", "plain", other, steps=2))
    assert losses("other") == pytest.approx(losses("plain"), abs=2e-4)
    assert losses("other") != pytest.approx(losses("one"), abs=2e-4)


def test_a_pretrained_backbone_has_the_same_tokens_in_a_resumed_run(project: Path) -> None:
    """A resumed run reads no pretrained weights: the tokens must come from its saved state."""
    pretrained = (
        "image.config=null", "image.name=llava:llava-scenes", "image.px=112", "text.freeze=none",
        "data.cache_tokens=true",
    )  # fmt: skip
    whole, cut = (spec("joint", name, *pretrained, steps=8, eval_every=4) for name in ("a", "b"))
    run(whole)
    files = {path.name for path in Path("runs/cache").glob("*-tokens-*")}
    run_and_die(cut, at=6)
    assert any(event["event"] == "resume" for event in run(cut))
    assert {path.name for path in Path("runs/cache").glob("*-tokens-*")} == files
    assert losses("b") == losses("a")
    found = (Path("runs", name, "model.safetensors") for name in ("a", "b"))
    torch.testing.assert_close(*map(load_file, found), rtol=0, atol=0)


def test_a_folder_whose_name_is_not_utf_8(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path(os.fsdecode(b"jos\xe9"))
    other.mkdir()
    for name in ("world", "dense", "tiny.yaml"):
        Path(name).rename(other / name)
    monkeypatch.chdir(other)
    (run_file,) = Path("dense").glob("*/run.json")
    told = json.loads(run_file.read_text()) | {"images": str(Path("world").resolve())}
    run_file.write_text(json.dumps(told))
    run(spec("joint", "a", "data.cache_tokens=true", steps=2))
    assert len(list(Path("runs/cache").glob("image-tokens-*"))) == 2
