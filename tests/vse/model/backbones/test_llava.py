"""The vision tower of a LLaVA."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, LlavaForConditionalGeneration

from data.environment import SHIPPED_MODELS
from data.errors import UserError
from tests.documents import ROOT
from tests.vse.model.backbones.checks import EXACT, check_rebuilt, some_images
from vse.model.backbones import Backbone, describe_backbone, make_image_backbone
from vse.model.backbones.llava import load_llava
from vse.model.backbones.origins import find_origin
from vse.recipes import ImageTowerConfig

SHIPPED = SHIPPED_MODELS["llava-scenes"]
SCENES = "llava:llava-scenes"


def make(name: str = SCENES, *, pretrained: bool = True) -> Backbone:
    return make_image_backbone(ImageTowerConfig(name=name, px=112, pretrained=pretrained)).eval()


def test_its_tokens_are_those_that_the_llava_sees() -> None:
    whole = LlavaForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    pixels = some_images(112)
    with torch.no_grad():
        seen = whole.model.vision_tower(pixels).last_hidden_state
        torch.testing.assert_close(make()(pixels), seen, **EXACT)


def test_images_are_normalized_as_for_the_llava() -> None:
    processor = AutoImageProcessor.from_pretrained(SHIPPED)
    made = describe_backbone(make())
    assert made["mean"] == list(processor.image_mean)
    assert made["std"] == list(processor.image_std)


def test_a_run_rebuilds_it_from_its_description() -> None:
    check_rebuilt(make(), px=112)


def test_weights_in_several_files_of_a_folder(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    # As transformers 5 names them. The file of the language model is not there, nor needed.
    tower = {
        "model." + key.replace("vision_model.", ""): value
        for key, value in weights.items()
        if key.startswith("vision_tower.")
    }
    keys = sorted(tower)
    parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for file, own in parts.items():
        save_file({key: tower[key] for key in own}, folder / file, metadata={"format": "pt"})
    places = {key: file for file, own in parts.items() for key in own}
    places["language_model.lm_head.weight"] = "c.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    torch.testing.assert_close(make(f"llava:{folder}").state_dict(), make().state_dict(), **EXACT)


def test_only_random_weights_use_the_seed() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    make()
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(0)
    random = make(pretrained=False)
    assert not torch.equal(torch.rand(1), expected)
    weight = "encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(random.state_dict()[weight], make().state_dict()[weight])


def test_what_has_no_such_tower(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hf download nobody/llava"):
        load_llava("llava:nobody/llava", pretrained=True)
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="no vision tower"):
        load_llava(f"llava:{bert}", pretrained=True)
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    lacking = {key: value for key, value in weights.items() if "layers.3.mlp" not in key}
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights .*layers\.3\.mlp"):
        load_llava(f"llava:{folder}", pretrained=True)


def test_its_repository_is_named_in_the_card() -> None:
    assert find_origin("llava:llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"
    assert find_origin(SCENES) is None


def test_a_single_file_is_found_in_the_cache_without_a_network(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--some--llava"
    shutil.copytree(SHIPPED, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    code = (
        "from vse.model.backbones.llava import load_llava\n"
        "print(load_llava('llava:some/llava', pretrained=True).width)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "160\n", done.stderr[-2000:]
