"""Who may import whom (docs/design.md), read from the source of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("captioner", "data", "pipelines", "vse")
ALLOWED = {
    "data": {"data"},
    "captioner": {"captioner", "data"},
    "vse": {"vse", "data"},
    "pipelines": set(OURS),
}
MODULES = sorted(path for name in OURS for path in (ROOT / name).rglob("*.py"))
TORCH_FREE = [
    *sorted((ROOT / "data").rglob("*.py")),
    *(ROOT / f"vse/{name}.py" for name in ("retrieval", "nearest", "tiles")),
    *sorted((ROOT / "vse/evaluation").glob("*.py")),
    *sorted((ROOT / "vse/config").glob("*.py")),
    ROOT / "vse/recipe_files.py",
    ROOT / "vse/hub.py",
    *(path for path in sorted((ROOT / "vse/index").glob("*.py")) if path.name != "pictures.py"),
    *sorted((ROOT / "pipelines").glob("*.py")),
]


def dotted(path: Path) -> str:
    """captioner/engines/vllm.py -> captioner.engines.vllm"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, inside functions too, and by import_module."""
    package = path.relative_to(ROOT).parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{stem}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_there_is_something_to_look_at() -> None:
    assert {dotted(path).split(".")[0] for path in MODULES} == set(OURS)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_directions(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    foreign = (roots(path) & set(OURS)) - ALLOWED[room]
    assert not foreign, f"{room} must not import {foreign}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_nobody_imports_the_tests(path: Path) -> None:
    assert "tests" not in roots(path)


def test_only_its_engine_imports_vllm() -> None:
    assert {dotted(path) for path in MODULES if "vllm" in roots(path)} == {"captioner.engines.vllm"}


def test_only_the_doors_import_click() -> None:
    rooms = {path.relative_to(ROOT).parts[0] for path in MODULES if "click" in roots(path)}
    assert rooms == {"pipelines"}


def unpickles(call: ast.Call) -> bool:
    """Whether a call may run what a pickle says; with `weights_only` torch does not."""
    safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
    return not (ast.unparse(call.func) == "torch.load" and safe)


def test_nothing_is_unpickled_outside_data() -> None:
    loaders = {"pickle", "cloudpickle", "dill", "joblib", "torch.load"}
    guilty = {}
    for path in MODULES:
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and unpickles(node)
        }
        if found := (roots(path) | calls) & loaders:
            guilty[dotted(path)] = found
    assert {name for name in guilty if not name.startswith("data.")} == set(), guilty


def test_no_code_from_a_hub_is_run() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", dotted(path)


def test_data_and_configs_import_without_torch() -> None:
    """A None in sys.modules makes the import fail, and its traceback names who asked for it."""
    names = [dotted(path) for path in TORCH_FREE if path.name != "__main__.py"]
    code = (
        "import importlib, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'vllm', 'accelerate')))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
