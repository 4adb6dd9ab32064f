"""Cleaning a generated text before it is assessed and stored."""

import re

# Tags that mark reasoning: those of DeepSeek and Qwen, and of Kimi and Magistral.
_BEGIN = r"(?:(?i:<(?:think(?:ing)?|thought|reasoning)>)|◁think▷|\[THINK\])"
_END = r"(?:(?i:</(?:think(?:ing)?|thought|reasoning)>)|◁/think▷|\[/THINK\])"
_REASONING = re.compile(rf"{_BEGIN}.*?{_END}", re.DOTALL)
# The prompt may have opened it, and the length limit may have cut it off.
_LOOSE_ENDS = re.compile(rf"\A.*{_END}|{_BEGIN}.*\Z", re.DOTALL)
# All but tabs and line ends, and lone surrogates, which UTF-8 cannot represent.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
REPLACEMENT = "\ufffd"


def cut_reasoning(text: str) -> str:
    """The text without the model's reasoning."""
    return _LOOSE_ENDS.sub("", _REASONING.sub("", text))


def clean_text(text: str) -> str:
    """One that every file can hold: stripped, line ends as \\n, U+FFFD for control characters."""
    return _UNPRINTABLE.sub(REPLACEMENT, re.sub(r"\r\n?", "\n", text)).strip()
