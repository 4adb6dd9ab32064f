"""The repositories that a card names as its base models."""

from pathlib import Path

import pytest

from vse.model.backbones.origins import find_origin, list_origins


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("google/vit-base-patch16-224-in21k", "google/vit-base-patch16-224-in21k"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("timm:vit_base_patch16_224.augreg_in21k", "timm/vit_base_patch16_224.augreg_in21k"),
        ("timm:someone/vit", "someone/vit"),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
        ("open_clip:hf-hub:someone/clip", "someone/clip"),
        ("open_clip:ViT-B-16/own.safetensors", None),
        ("/home/me/vit", None),
        ("made/here", None),
        ("timm:made/here", None),
        ("open_clip:made/here", None),
        ("a name: with\nmarkup", None),
    ],
)
def test_what_a_name_stands_for(
    name: str, repo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("made/here").mkdir(parents=True)
    assert find_origin(name) == repo


def test_only_weights_that_training_began_with_count() -> None:
    bert = {"name": "bert-base-uncased", "pretrained": True, "config": None}
    recipe = {"image": {"name": None, "config": {"model_type": "vit"}}, "text": bert}
    assert list_origins(recipe) == ["bert-base-uncased"]
    recipe["text"] = {**bert, "pretrained": False}
    assert list_origins(recipe) == [] == list_origins({})
    recipe["image"] = recipe["text"] = {"name": "open_clip:ViT-B-16/openai"}
    assert list_origins(recipe) == ["timm/vit_base_patch16_clip_224.openai"]
