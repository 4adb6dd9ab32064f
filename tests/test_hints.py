"""Advice can be followed: an option that a message names is one of each command that can say so.

Who can say it is read from the source: which function mentions which others, as far as their
modules import each other.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache

import click

from tests.documents import list_commands
from tests.test_imports import MODULES, dotted, imported

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# `d2s COMMAND --option`, with or without backticks, is advice to call that command.
OTHER_COMMAND = re.compile(r"\bd2s ([a-z-]+)((?: (?!or )[^\s`;,:)]+)*)")
PATHS = {dotted(path): path for path in MODULES}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}
COMMANDS = {w: c for w, c in list_commands().items() if not isinstance(c, click.Group)}
# Functions of one name, and calls that the command's own checks make impossible.
NEVER_SAID = {
    # What is overridden comes from the command line alone.
    ("data.settings.yaml_files", "--set"): {"convert", "evaluate", "doctor", "demo"}
    # Those of a recorded command have been read before.
    | {"publish dataset"},
    # A run's source was read once already, by the column that it names.
    ("data.sources.cells", "--image-column"): {
        *("review", "score", "import", "evaluate", "search", "serve", "export"),
        *("publish dataset", "publish model", "publish space"),
        # It reads members of archives, no cells of a table.
        "benchmark",
    },
    # The model was built when it was trained, at this size.
    ("vse.model.backbones.probe", "--set"): set(COMMANDS),
    ("vse.model.backbones.timm", "--set"): set(COMMANDS),
    ("vse.runs.config", "--out"): {"search", "serve", "publish model", "publish space"},
    # Its results are those of its steps; another function of the name.
    ("pipelines.console.outputs", "--overwrite"): {"reproduce", "scenes"},
    # Another function of the name.
    ("data.dense.run", "--images"): {"serve"},
    ("pipelines.hub.seeds", "--seed-run"): {"publish space"},
    ("vse.samples.discovery", "--images"): {"serve"},
    # Evaluation hands the dense text on as `captioned`, of which neither is said.
    ("vse.samples.corpus", "--dense"): {"evaluate"},
    ("vse.samples.dense", "--dense"): {"evaluate"},
}


def list_options(words: str) -> set[str]:
    parameters = [*COMMANDS[words].params]
    # After `--` it is given a whole command.
    parameters += COMMANDS["caption"].params if words == "launch slurm" else []
    return {o for p in parameters for o in (*p.opts, *p.secondary_opts)} | {"--help"}


@cache
def list_neighbours(module: str) -> set[str]:
    """Modules that a module imports, and those that a package among them hands on."""
    found = {module}
    for name in imported(PATHS[module]):
        parts = name.split(".")
        owners = (".".join(parts[:cut]) for cut in range(len(parts), 0, -1))
        owner = next((owner for owner in owners if owner in PATHS), None)
        if owner is not None and owner not in found:
            found |= list_neighbours(owner) if is_package(owner) else {owner}
    return found


def is_package(module: str) -> bool:
    return PATHS[module].name == "__init__.py"


@cache
def list_definitions(module: str) -> dict[str, list[ast.AST]]:
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, []).append(node)
    return found


@cache
def list_mentions(node: ast.AST) -> set[str]:
    nodes = list(ast.walk(node))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {
        n.attr for n in nodes if isinstance(n, ast.Attribute)
    }


def list_reached(words: str) -> set[ast.AST]:
    """Functions and classes that a command may use."""
    callback = COMMANDS[words].callback
    assert callback is not None
    own = f"{callback.__module__}"
    todo = [(own, node) for node in list_definitions(own)[callback.__name__]]
    seen: set[ast.AST] = set()
    while todo:
        module, node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for other in list_neighbours(module):
            known = list_definitions(other)
            todo += [(other, n) for name in list_mentions(node) & known.keys() for n in known[name]]
    return seen


def read_messages(node: ast.AST) -> Iterator[str]:
    """Texts in a function, what is put into them as "{}"; not its docstring, nor single words."""
    parts = {part for n in ast.walk(node) if isinstance(n, ast.JoinedStr) for part in n.values}
    first = getattr(node, "body", [None])[0]
    for inner in ast.walk(node):
        text = ""
        if isinstance(inner, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in inner.values
            )
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            whole = inner not in parts and inner is not getattr(first, "value", None)
            text = inner.value if whole else ""
        if " " in text.strip():
            yield text


def test_options_that_are_named_with_their_command_exist() -> None:
    wrong = []
    for module, tree in TREES.items():
        for text in read_messages(tree):
            for words, rest in OTHER_COMMAND.findall(text):
                known = [w for w in COMMANDS if w.split()[0] == words]
                has = set().union(*map(list_options, known))
                wrong += [(module, text) for o in OPTION.findall(rest) if known and o not in has]
    assert wrong == []


def test_a_hint_names_an_option_of_each_command_that_can_give_it() -> None:
    reached = {words: list_reached(words) for words in COMMANDS}
    wrong = set()
    for module in PATHS:
        for nodes in list_definitions(module).values():
            for node in nodes:
                if isinstance(node, ast.ClassDef):
                    continue
                for text in read_messages(node):
                    for option in OPTION.findall(OTHER_COMMAND.sub("", text)):
                        excused = NEVER_SAID.get((module, option), set())
                        wrong |= {
                            (module, option, words)
                            for words in COMMANDS
                            if node in reached[words] and option not in list_options(words)
                            if words not in excused
                        }
    assert sorted(wrong) == []
