"""Models that look at no images, as a user meets them: from a folder, and from the Hub."""

from pathlib import Path

import pytest
import transformers as hf

from pipelines import cli
from tests.captioner.images import write_images
from tests.captioner.vision_models import TEXT, build_tokenizer
from tests.hub.commands import Commands
from tests.hub.server import HubServer


def save_text_model(folder: Path) -> Path:
    """A language model of random weights, with all that one has."""
    tokenizer = build_tokenizer({})
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_of_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "i", 2)
    save_text_model(tmp_path / "m")
    capsys.readouterr()
    typed = ["caption", "--model", "m", "--images", "i"]
    for more in ([], ["--dry-run"]):
        assert cli.run([*typed, *more]) == 2
        said = capsys.readouterr().err
        assert "LlamaForCausalLM" in said and "images" in said and said.count("\n") == 1
    Path("prompts.yaml").write_text("a: {prompt: x, model: m}\n")
    assert cli.run(["caption", "--images", "i", "--prompts", "prompts.yaml"]) == 2
    assert "LlamaForCausalLM" in capsys.readouterr().err
    assert not (tmp_path / "dense").exists()


def test_a_language_model_of_the_hub_is_not_fetched(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 2)
    files = {path.name: path.read_bytes() for path in save_text_model(tmp_path / "m").iterdir()}
    with HubServer() as server, Commands(server.environment(tmp_path / "h"), tmp_path) as commands:
        server.hub.create("me/words", files, kind="model")
        done = commands.run("caption", "--model", "me/words", "--images", "i")
    assert done.code == 2 and "LlamaForCausalLM" in done.err and done.err.count("\n") == 1
    assert any("config.json" in line for line in server.requests)
    assert not any("safetensors" in line for line in server.requests)
    assert not (tmp_path / "dense").exists()
