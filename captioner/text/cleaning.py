"""What is cut off a generated text, or replaced in it, before it is judged and kept."""

import re

# How models that reason aloud mark what is not their answer: DeepSeek's and Qwen's tags, and
# those of Kimi and Magistral.
_BEGIN = r"(?:(?i:<(?:think(?:ing)?|thought|reasoning)>)|◁think▷|\[THINK\])"
_END = r"(?:(?i:</(?:think(?:ing)?|thought|reasoning)>)|◁/think▷|\[/THINK\])"
_REASONING = re.compile(rf"{_BEGIN}.*?{_END}", re.DOTALL)
# The prompt may have begun it, and the length may have ended it.
_LOOSE_ENDS = re.compile(rf"\A.*{_END}|{_BEGIN}.*\Z", re.DOTALL)
# All but tabs and line ends; halves of characters, which no file of UTF-8 can hold, among them.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def cut_reasoning(text: str) -> str:
    """The text without what a model wrote in its reasoning, its answer alone."""
    return _LOOSE_ENDS.sub("", _REASONING.sub("", text))


def clean_text(text: str) -> str:
    """One that every file can hold: stripped, line ends as \\n, U+FFFD for control characters."""
    return _UNPRINTABLE.sub(REPLACEMENT, re.sub(r"\r\n?", "\n", text)).strip()
