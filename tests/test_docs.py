"""What the documents tell a reader exists: commands, options, settings, names, files, links."""

import ast
import dataclasses
import importlib
import importlib.util
import itertools
import re
import shlex
from pathlib import Path
from typing import get_type_hints

import click
from accelerate.commands.launch import launch_command_parser

from captioner.settings.config import CaptionConfig
from pipelines.cli import COMMANDS, d2s
from pipelines.experiments.ablation_table import read_table
from tests.documents import (
    DOCUMENTS,
    FENCED,
    INDENTED,
    LANGUAGES,
    ROOT,
    find_command,
    for_each_document,
    list_anchors,
    read_blocks,
    read_commands,
    read_inline,
    read_shell_lines,
)
from vse.recipes import STAGES, Recipe
from vse.recipes.files import read_recipe, resolve

SECTIONS = {name for name, hint in get_type_hints(Recipe).items() if dataclasses.is_dataclass(hint)}
FILES = {"md", "onnx", "py", "yaml"}  # data.py is not a setting
WIDTH = 100
ROOMS = ("benchmarks", "captioner", "pipelines", "tests", "tools", "vse")


@for_each_document
def test_commands_and_options_exist(path: Path) -> None:
    for typed in read_commands(path):
        assert typed.words[0] in COMMANDS, str(typed)
        command, _ = find_command(typed.words)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = {word.split("=")[0] for word in typed.words if re.match(r"--[a-z]", word)}
        assert used <= known, str(typed)


@for_each_document
def test_commands_are_understood_as_they_are_typed(path: Path) -> None:
    """Values too: one of the choices, a number in its range, nothing too many or too few."""
    for typed in read_commands(path):
        if not typed.block:
            continue
        words = ["2" if word.startswith("$") else word for word in typed.words]
        name = typed.words[0]
        command, rest = find_command(words)
        # Below the group, or click would remember the command's help option without its -h.
        group = d2s.make_context("d2s", [name])
        try:
            command.make_context(name, rest, parent=group)
        except click.BadParameter as error:
            # The files that an example names are not here.
            assert "does not exist" in error.message, f"{typed}: {error.message}"


@for_each_document
def test_accelerate_knows_its_options(path: Path) -> None:
    for line in read_shell_lines(path):
        if line.startswith("accelerate launch "):
            parsed = launch_command_parser().parse_args(line.split("#")[0].split()[2:])
            assert parsed.module and parsed.training_script == "pipelines.cli"


@for_each_document
def test_settings_that_are_set_can_be(path: Path) -> None:
    """Each `--set` of a command, and each `section.name=value` in the text."""
    given = [
        (value, typed.words)
        for typed in read_commands(path)
        for option, value in zip(typed.words, typed.words[1:], strict=False)
        if option == "--set"
    ]
    pattern = re.compile(rf"(?:{'|'.join(SECTIONS)})\.\w+=(?!\.\.\.).+")
    words_inline = [word for text in read_inline(path) for word in _split(text)]
    given += [(word, ()) for word in words_inline if pattern.fullmatch(word)]
    for override, words in given:
        if words[:1] == ("caption",):
            CaptionConfig.read(overrides=[override], options={"model": "m", "images": "i"})
            continue
        stage = words[words.index("--stage") + 1] if "--stage" in words else "2"
        resolve(read_recipe("paper"), stage=stage, overrides=[override])


@for_each_document
def test_settings_exist(path: Path) -> None:
    hints = get_type_hints(Recipe)
    for text in read_inline(path):
        if found := re.fullmatch(r"(\w+)\.(\w+)", text):
            section, name = found.groups()
            if section in SECTIONS and name not in FILES:
                known = {field.name for field in dataclasses.fields(hints[section])}
                assert name in known or _is_module(text), text


@for_each_document
def test_recipes_resolve(path: Path, tmp_path: Path) -> None:
    """A block of YAML that begins with a section is a recipe, or a part to lay over one."""
    for block in read_blocks(path, "yaml"):
        if not re.match(rf"(?:#.*\n)*(?:{'|'.join(SECTIONS)}|base):\s", block):
            continue
        mine = tmp_path / "mine.yaml"
        mine.write_text(block)
        for stage in STAGES:
            assert resolve(read_recipe(str(mine)), stage=stage).width > 0


@for_each_document
def test_tables_of_ablations_are_read(path: Path, tmp_path: Path) -> None:
    for block in read_blocks(path, "yaml"):
        if re.match(r"title: .*\nrows:\n", block):
            mine = tmp_path / "mine.yaml"
            mine.write_text(block)
            for row in read_table(str(mine)).rows:
                for settings in (row.stage1, row.stage2):
                    given = [f"{name}={value}" for name, value in settings.items()]
                    resolve(read_recipe("paper"), stage=row.stage, overrides=given)


@for_each_document
def test_names_and_files_of_the_code_exist(path: Path) -> None:
    if path.name == "log.md":  # it tells of names as they were
        return
    for text in read_inline(path):
        if re.fullmatch(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+", text):
            assert _is_module(text), text
        if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/[\w/.-]*(?:/|\.\w+)", text):
            assert (ROOT / text).exists(), text


def _split(text: str) -> list[str]:
    """Words as a shell has them; none of what is no command line."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _is_module(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@for_each_document
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in [*read_shell_lines(path), *read_inline(path)]:
        if found := re.match(r"make ([\w-]+)", line):
            assert found.group(1) in targets, line


@for_each_document
def test_modules_that_are_run_exist(path: Path) -> None:
    """What stands behind `python -m`, and a script behind `python`."""
    text = path.read_text()
    for name in re.findall(r"python -m ([a-z][\w.]*\w)", text):
        assert importlib.util.find_spec(name) is not None, name
    for script in re.findall(r"python ([a-z][\w/]*\.py)", text):
        # Others are of a folder that the reader has made.
        if (ROOT / script.split("/")[0]).exists():
            assert (ROOT / script).is_file(), script


@for_each_document
def test_blocks_name_their_language_and_fit_the_page(path: Path) -> None:
    text = path.read_text() + "\n"
    for language, code in FENCED.findall(text):
        assert language in LANGUAGES, f"{language or 'no language'}: {code}"
        assert [line for line in code.splitlines() if len(line) > WIDTH] == []
    prose = FENCED.sub("", text)
    if path.name not in ("README.md", "log.md"):
        assert INDENTED.findall(prose) == []
    if path.name != "log.md" and path.parent.name not in ("benchmarks", "experiments"):
        # A row of a table, a picture and a heading are one line each.
        lines = [line for line in prose.splitlines() if not line.startswith(("|", "!", "#"))]
        assert [line for line in lines if len(line) > WIDTH and " " in line.strip()] == []


@for_each_document
def test_no_command_hides_in_a_block_of_another_language(path: Path) -> None:
    """The tests of commands look into those of a shell."""
    for code in read_blocks(path, "python", "text", "yaml", "json"):
        assert not re.search(r"^\s*(?:\$ )?d2s [a-z-]+ ", code, re.MULTILINE), code


@for_each_document
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in list_anchors(target), link


def test_the_first_screen_says_how_to_start() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    for needed in ("make demo", "make test", "make setup", ".venv/bin/d2s", "GB", "minutes"):
        assert needed in first
    # A package that no index has is not there to be installed; another's of that name would be.
    for path in DOCUMENTS:
        assert not re.search(r"pip install [^.\n]*d2s-vse", path.read_text()), path


def test_the_readme_shows_the_user_s_four_commands() -> None:
    shown = {typed.words[0] for typed in read_commands(ROOT / "README.md")}
    assert {"caption", "train", "evaluate", "doctor"} <= shown


def test_the_reading_order_is_an_hour_and_no_folder_of_vse_is_forgotten() -> None:
    text = (ROOT / "docs/method.md").read_text()
    order = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    files = [name for line in order for name in re.findall(r"`(vse/[\w/]+\.py)`", line)]
    lines = sum(len((ROOT / name).read_text().splitlines()) for name in files)
    assert len(files) > 10 and lines < 2600, lines
    folders = {path.parent.name for path in (ROOT / "vse").glob("*/__init__.py")}
    assert {name for name in folders if f"`vse/{name}/`" not in text} <= {"objective"}


def list_messages() -> list[str]:
    """Every text in the code, "..." in the place of what an f-string fills in."""
    found = []
    for room in ("data", "pipelines", "vse"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_errors_are_quoted_as_they_are() -> None:
    messages = list_messages()
    text = (ROOT / "docs/training.md").read_text().partition("| message |")[2]
    rows = text.partition("\n\n")[0].splitlines()[2:]
    quoted = [quote.strip() for row in rows for quote in row.split("|")[1].split(";")]
    assert len(quoted) > 15
    for quote in quoted:
        parts = [re.escape(part.strip()) for part in quote.split("...")]
        pattern = re.compile(".*".join(parts), re.DOTALL)
        assert any(pattern.search(message) for message in messages), quote


def test_the_readme_compares_as_the_page_of_peers_does() -> None:
    """Each row of its table: the same feature, and the same word under each tool."""
    tables = {name: _read_table(ROOT / name, "| d2s |") for name in ("README.md", "docs/peers.md")}
    tools, *rows = tables["README.md"]
    heads, *known = tables["docs/peers.md"]
    columns = [0, *(heads.index(tool) for tool in tools[1:])]
    words = {row[0]: [re.sub(r" \d+$", "", row[column]) for column in columns] for row in known}
    for row in rows:
        assert row == words[row[0]], row


def _read_table(path: Path, head: str) -> list[list[str]]:
    """The cells of the first table whose head has `head` in it, without the rule below it."""
    lines = path.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|") and head in line)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[first:])
    return [
        [cell.strip() for cell in row.strip("|").split("|")] for row in rows if "---" not in row
    ]
