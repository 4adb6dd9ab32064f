"""What --model may be."""

from pathlib import Path

import pytest

from captioner.llava.names import DEFAULT_PROMPT, HUB_MODELS, parse_model_name
from data.errors import UserError


def test_the_prompt_is_the_papers() -> None:
    assert DEFAULT_PROMPT == "Describe this image in detail."


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf"),
        ("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf"),
        ("llava-1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf"),
        ("llava-1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf"),
        ("llava-1.6-vicuna-13b", "llava-hf/llava-v1.6-vicuna-13b-hf"),
        ("llava-1.6-34b", "llava-hf/llava-v1.6-34b-hf"),
        ("somebody/some-llava", "somebody/some-llava"),
    ],
)
def test_names_of_the_hub(name: str, repository: str) -> None:
    assert parse_model_name(name).repository == repository
    assert parse_model_name(name).folder is None


def test_every_size_of_llava_16_is_there() -> None:
    assert sum(name.startswith("llava-1.6-") for name in HUB_MODELS) == 4


def test_the_shipped_model_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = parse_model_name("llava-scenes").folder
    assert shipped is not None and shipped.parts[-3:] == ("captioner", "models", "llava-scenes")
    (tmp_path / "mine").mkdir()
    assert parse_model_name(str(tmp_path / "mine")).folder == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    found = parse_model_name("./mine")
    # Not the path: the same weights elsewhere are the same model.
    assert (found.folder, found.name) == (tmp_path / "mine", "mine")


@pytest.mark.parametrize("name", ["llava-1.5-7B", "llava-1.5-7bb", "lava-1.5-7b"])
def test_did_you_mean(name: str) -> None:
    with pytest.raises(UserError, match=r"did you mean llava-1\.5-7b\?"):
        parse_model_name(name)


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/where", "a/b/c", "xyz", "../up/x"])
def test_neither_name_nor_path(name: str) -> None:
    with pytest.raises(UserError, match="no model") as caught:
        parse_model_name(name)
    assert "\n" not in str(caught.value)
