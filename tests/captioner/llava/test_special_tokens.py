"""No value brings a token of the model's into a prompt."""

import json
from pathlib import Path

import pytest

from captioner.llava.special_tokens import count_tokens, defuse
from tests.properties import given, st

HOSTILE = (
    *("<", ">", "|", "<image>", "<|im_end|>", "<|", "|>", "image", "im_end", "</s>", "s>"),
    *("[IMG]", "[", "IMG]", "<start_of_turn>", " ", "\n", "a", "{", "\u200b"),
)


@given(st.lists(st.sampled_from(HOSTILE), max_size=12).map("".join))
def test_a_text_keeps_all_its_signs_and_has_no_token(text: str) -> None:
    harmless = defuse(text, None)
    assert count_tokens(harmless, None) == 0
    assert harmless.replace(" ", "") == text.replace(" ", "")
    assert harmless == text or count_tokens(text, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tokenizer.json", {"added_tokens": [{"content": "~OWN~", "special": True}]}),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"7": {"content": "~OWN~", "special": True}}},
        ),
    ],
)
def test_tokens_that_the_files_of_a_model_declare(
    tmp_path: Path, name: str, said: dict[str, object]
) -> None:
    assert defuse("a ~OWN~ <image>", tmp_path / "none") == "a ~OWN~ < image>"
    (tmp_path / name).write_text(json.dumps(said))
    assert defuse("a ~OWN~ <image>", tmp_path) == "a ~ OWN~ < image>"


@pytest.mark.parametrize("damaged", ["{", "[]", '{"added_tokens": [7]}'])
def test_files_that_cannot_be_read_leave_those_that_are_known(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(damaged)
    plain = {"added_tokens": [{"content": "a", "special": True}, {"content": "<td>"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    assert defuse("a <td> </s>", tmp_path) == "a <td> < /s>"
