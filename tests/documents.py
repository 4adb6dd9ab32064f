"""What stands in the documents: snippets, commands, settings, links, read from their Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import click

from pipelines.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
INDENTED = re.compile(r"(?:^    .*\n(?:\n(?=    ))?)+", re.MULTILINE)
LANGUAGES = {"bash", "console", "json", "python", "text", "yaml"} | {
    # Of the site.
    "{eval-rst}",
    "{literalinclude} ../data/dense/schema.py",
}
INLINE = re.compile(r"`([^`\n]+)`")


def for_each_document(check: Callable[..., None]) -> Callable[[Path], None]:
    """One test over all pages; what fails is named with its page."""

    def test(tmp_path: Path) -> None:
        faults = []
        for path in DOCUMENTS:
            try:
                check(path, *([tmp_path] if "tmp_path" in signature(check).parameters else []))
            except AssertionError as error:
                faults.append(f"{path.relative_to(ROOT)}: {error}")
        assert not faults, "\n".join(faults)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def read_blocks(path: Path, *languages: str) -> list[str]:
    """The code blocks of a page; with `languages`, those of one of them."""
    text = path.read_text() + "\n"
    return [code for name, code in FENCED.findall(text) if not languages or name in languages]


def read_shell_lines(path: Path) -> list[str]:
    """What is typed into a shell, continued lines joined; of `console`, what follows a "$ "."""
    lines = [line for block in read_blocks(path, "bash") for line in _join(block)]
    typed = [line for block in read_blocks(path, "console") for line in _join(block)]
    return lines + [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]


def _join(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", "", block).splitlines()


def read_inline(path: Path) -> list[str]:
    """What stands in backticks."""
    return INLINE.findall(_read_text(path))


def _read_text(path: Path) -> str:
    """A page without its blocks."""
    return FENCED.sub("", path.read_text() + "\n")


@dataclass(frozen=True)
class Command:
    """A command line of `d2s`: its words after `d2s`, and whether it stands in a block."""

    words: tuple[str, ...]
    block: bool

    def __str__(self) -> str:
        return " ".join(self.words)


def read_commands(path: Path) -> list[Command]:
    """Every line that calls d2s, by its name or through Accelerate; comments are left out."""
    found = [command for line in read_shell_lines(path) for command in _parse(line, block=True)]
    return found + [command for text in read_inline(path) for command in _parse(text, block=False)]


def _parse(line: str, *, block: bool) -> list[Command]:
    line = re.sub(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?", "", line.strip())
    if line.startswith("accelerate launch "):
        line = f"d2s {line.partition(' -m pipelines.cli ')[2]}"
    # A document may show what is not quite a command line, such as the head of a list.
    first = re.split(r"\s#|;|&&", line)[0]
    if not re.match(r"d2s [a-z]", first) or "COMMAND" in first:
        return []
    # `d2s launch` is given a whole command.
    launching, _, launched = first.partition(" -- ")
    words = (tuple(shlex.split(part)[1:]) for part in (launching, launched) if part)
    return [Command(each, block) for each in words]


def find_command(words: Sequence[str]) -> tuple[click.Command, list[str]]:
    """The command of `d2s`, or of a group in it, that the first words name; and what follows."""
    command, rest = COMMANDS[words[0]].load(), list(words[1:])
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]
    return command, rest


def list_commands() -> dict[str, click.Command]:
    """Every command that a user can call by its words, those of a group in it too."""
    found: dict[str, click.Command] = {}

    for name, entry in COMMANDS.items():
        found[name] = command = entry.load()
        if isinstance(command, click.Group):
            found |= {f"{name} {below}": each for below, each in command.commands.items()}
    return found


def list_anchors(path: Path) -> set[str]:
    """What a link may name after "#", as GitHub makes it of headings."""
    heads = re.findall(r"^#+ (.+)$", _read_text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
