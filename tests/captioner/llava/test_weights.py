"""Weights that are there, and one clear line for each way of not being there."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from captioner.llava.names import ModelName, parse_model_name
from captioner.llava.weights import hash_folder, obtain_weights
from data.errors import UserError

LLAVA = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}


def make_model(folder: Path, config: dict[str, Any] = LLAVA) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def local(folder: Path) -> ModelName:
    return ModelName(name=folder.name, folder=folder)


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    one, two = make_model(tmp_path / "one"), make_model(tmp_path / "two")
    (two / "README.md").write_text("a card changes nothing")
    revision = obtain_weights(local(one)).revision
    assert revision == f"sha256:{hash_folder(two)}"
    (two / "model.safetensors").write_bytes(b"others")
    assert revision != obtain_weights(local(two)).revision


def test_what_a_folder_can_lack(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"not complete: model\.safetensors is missing"):
        obtain_weights(local(folder))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"model-2\.safetensors is missing"):
        obtain_weights(local(folder))
    (folder / "model-2.safetensors").write_bytes(b"x")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        obtain_weights(local(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        obtain_weights(local(folder))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "T5ForConditionalGeneration"])
def test_a_model_that_sees_nothing_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_model(tmp_path / "m", {"architectures": [name]})
    with pytest.raises(UserError, match=f"does not look at images.*{name}"):
        obtain_weights(local(folder))


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"architectures": ["Qwen3VLForConditionalGeneration"], "vision_config": {}}, {}),
        ({"architectures": ["InternVLChatModel"], "vision_config": {}}, {}),
        ({"architectures": ["MolmoForCausalLM"]}, {"image_mean": [0.5, 0.5, 0.5]}),
    ],
)
def test_any_architecture_that_looks_at_images_is_taken(
    tmp_path: Path, config: dict[str, Any], processor: dict[str, Any]
) -> None:
    folder = make_model(tmp_path / "m", config)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert obtain_weights(local(folder)).path == folder


def test_the_shipped_model_missing_from_an_installation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="llava-scenes are missing from this installation"):
        obtain_weights(ModelName(name="llava-scenes", folder=tmp_path))


def test_a_revision_is_for_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--revision works with models of the Hub"):
        obtain_weights(local(make_model(tmp_path / "m")), revision="main")


def test_offline_without_weights() -> None:
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set") as caught:
        obtain_weights(parse_model_name("llava-1.5-7b"))
    message = str(caught.value)
    assert "hf download llava-hf/llava-1.5-7b-hf" in message and "HF_HOME" in message
    assert "\n" not in message


def refuse(error: Exception) -> Any:
    def model_info(*_: object, **__: object) -> object:
        raise error

    return model_info


def answer(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GatedRepoError("gated", response=answer(403)), "gated: accept its terms.*HF_TOKEN"),
        (RepositoryNotFoundError("no", response=answer(401)), "no model .* access"),
        (RevisionNotFoundError("no", response=answer(404)), "has no revision 'v9'"),
        (httpx.ConnectError("nodename unknown"), "cannot be reached.*hf download.*HF_HOME"),
        (TimeoutError(), "cannot be reached"),
    ],
    ids=["gated", "unknown", "revision", "network", "timeout"],
)
def test_what_the_hub_can_say(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(HfApi, "model_info", refuse(error))
    with pytest.raises(UserError, match=expected) as caught:
        obtain_weights(parse_model_name("llava-1.5-7b"), revision="v9")
    assert "\n" not in str(caught.value)


def test_a_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(HfApi, "model_info", refuse(OSError("Bearer hf_verysecret refused")))
    with pytest.raises(UserError) as caught:
        obtain_weights(parse_model_name("llava-1.5-7b"))
    assert "verysecret" not in str(caught.value)


def fill_cache(home: Path, *, whole: bool) -> Path:
    """The Hub's cache as `hf download` leaves it."""
    repository = home / "models--llava-hf--llava-1.5-7b-hf"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    snapshot = make_model(repository / "snapshots" / "c0ffee")
    if not whole:
        (snapshot / "model.safetensors").unlink()
    return snapshot


def test_the_cache_is_used_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = fill_cache(tmp_path, whole=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(HfApi, "model_info", refuse(AssertionError("the network was asked")))
    weights = obtain_weights(parse_model_name("llava-1.5-7b"))
    assert weights.path == snapshot
    assert (weights.model, weights.revision) == ("llava-hf/llava-1.5-7b-hf", "c0ffee")


def test_half_a_download_is_not_taken_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(tmp_path, whole=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="not in the cache"):
        obtain_weights(parse_model_name("llava-1.5-7b"))


def test_safetensors_are_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    files = [SimpleNamespace(rfilename=name) for name in ("a.safetensors", "b.bin")]
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))

    def download(*_: object, allow_patterns: list[str], **options: object) -> str:
        if options.get("local_files_only"):
            raise ValueError("not cached")
        asked.append(allow_patterns)
        return str(tmp_path / "fetched")

    make_model(tmp_path / "fetched")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert obtain_weights(parse_model_name("llava-1.5-7b")).revision == "fetched"
    assert "*.safetensors" in asked[-1] and "*.bin" not in asked[-1]
