"""`--help` of every command on 80 columns, and the examples in it."""

import re
import shlex

import click
import pytest

from pipelines import cli
from tests.documents import list_commands

COMMANDS = list_commands()


def show_help(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([*words.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_help_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for words in ("", *COMMANDS) for line in show_help(words, capsys).splitlines()]
    assert [line for line in lines if len(line) > 80] == []


def read_examples(shown: str) -> list[str]:
    """The lines below "Examples:"."""
    found = re.search(r"^  Examples:\n((?:    .+\n)+)", shown, re.MULTILINE)
    return found.group(1).splitlines() if found else []


def test_help_has_examples_that_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Each calls its command, with options and values that it takes."""
    for words, command in COMMANDS.items():
        if isinstance(command, click.Group):
            continue
        examples = read_examples(show_help(words, capsys))
        assert examples, words
        for line in examples:
            called = re.search(rf"\bd2s {words}(?![-\w])([^)>]*)", line)
            assert called, line
            group = cli.d2s.make_context("d2s", words.split())
            given = shlex.split(called.group(1), comments=True)
            try:
                command.make_context(words, given, parent=group)
            except click.BadParameter as error:
                # The files that an example names are not here.
                assert "does not exist" in error.message, f"{line}: {error.message}"


def test_commands_stand_under_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = show_help("", capsys)
    headings = re.findall(r"^(\S.*):\n", shown, re.MULTILINE)
    assert headings == ["Options", *cli.GROUPS]
    for heading, entries in cli.GROUPS.items():
        section = shown.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  (\S+)", section, re.MULTILINE) == list(entries)
    # One line each, beginning in one column.
    lines = re.findall(r"^  ([a-z][a-z-]* +)[A-Z].*$", shown, re.MULTILINE)
    assert len(lines) == len(cli.COMMANDS) and len({len(name) for name in lines}) == 1
