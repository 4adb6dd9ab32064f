"""What the documents tell a reader to type exists."""

import importlib
import re
from pathlib import Path

import pytest

from pipelines.cli import DOORS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^    (.+)$|`([^`\n]+)`", re.MULTILINE)


def snippets(path: Path) -> list[str]:
    return [indented or inline for indented, inline in CODE.findall(path.read_text())]


def commands(path: Path) -> list[list[str]]:
    """The words after each `d2s` that starts a snippet; a comment ends a command."""
    lines = [re.sub(r"^\.venv/bin/", "", line.strip()) for line in snippets(path)]
    typed = [re.split(r"\s+#|;|&&", line)[0].split() for line in lines]
    return [words[1:] for words in typed if words[:1] == ["d2s"] and words[1:]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(path: Path) -> None:
    for words in commands(path):
        if words[0].startswith("-") or words[0] == "COMMAND":
            continue
        assert words[0] in DOORS, " ".join(words)
        door = DOORS[words[0]]
        command = getattr(importlib.import_module(door.module), door.name)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known, " ".join(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in snippets(path):
        if found := re.match(r"make (\w+)", line):
            assert found.group(1) in targets, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not link.startswith(("http", "#")):
            assert (path.parent / link.split("#")[0]).exists(), link


def test_the_first_screen_says_how_to_start() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    for needed in ("make demo", "make test", "make setup", ".venv/bin/d2s", "d2s-vse[vllm]"):
        assert needed in first


def test_the_readme_shows_the_user_s_four_commands() -> None:
    shown = {words[0] for words in commands(ROOT / "README.md")}
    assert {"caption", "train", "evaluate", "doctor"} <= shown
