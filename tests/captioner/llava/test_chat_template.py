"""The prompt in the model's conversation."""

from pathlib import Path
from shutil import copytree

import pytest

from captioner.llava.chat_template import VICUNA, Prompt, render_prompt
from captioner.llava.weights import Weights
from data.environment import SHIPPED_MODELS
from data.errors import UserError
from tests.captioner.vision_models import FAMILIES

LEAVES_SYSTEM_OUT = "{% for m in messages if m['role'] == 'user' %}<image>What?{% endfor %}"


def test_a_system_prompt_comes_first_and_vicuna_names_one() -> None:
    weights = Weights("m", SHIPPED_MODELS["llava-scenes"], "r")
    assert render_prompt(weights, Prompt("What?")) == "USER: <image>\nWhat? ASSISTANT:"
    rendered = render_prompt(weights, Prompt("What?", "vicuna"))
    assert rendered == f"SYSTEM: {VICUNA} USER: <image>\nWhat? ASSISTANT:"
    assert "SYSTEM: Be brief. USER" in render_prompt(weights, Prompt("What?", "Be brief."))


@pytest.mark.parametrize(
    ("template", "prompt", "told"),
    [
        (LEAVES_SYSTEM_OUT, Prompt("What?", "Be brief."), "leaves --system out"),
        (LEAVES_SYSTEM_OUT, Prompt("Where?"), "leaves --prompt out"),
        ("{{ raise_exception('no system prompt') }}", Prompt("What?"), "no system prompt"),
        ("{{ messages[0].content[1].text }}", Prompt("What?"), "must contain the image once"),
        ("{{ 1 +", Prompt("What?"), "chat template"),
    ],
)
def test_a_template_that_does_not_say_what_was_asked(
    tmp_path: Path, template: str, prompt: Prompt, told: str
) -> None:
    folder = copytree(SHIPPED_MODELS["llava-scenes"], tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=told):
        render_prompt(Weights("m", folder, "r"), prompt)


def test_a_package_that_a_processor_wants_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolVLM2's counts the frames of videos in words, and is not made without the package."""
    wants = "transformers.models.smolvlm.processing_smolvlm.num2words"
    monkeypatch.setattr(wants, str)
    config, processor = FAMILIES["smolvlm2"]()
    config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(wants, None)
    with pytest.raises(UserError, match="pip install num2words") as told:
        render_prompt(Weights("m", tmp_path, "r"), Prompt("What?"))
    assert "\n" not in str(told.value)
