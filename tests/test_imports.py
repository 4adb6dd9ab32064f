"""Who may import whom (docs/design.md), read from the source of every module."""

import ast
import subprocess
import sys
from pathlib import Path

from pipelines.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
OURS = ("captioner", "data", "pipelines", "vse")
PACKAGES = {
    "data": {"data"},
    "captioner": {"captioner", "data"},
    "vse": {"vse", "data"},
    "pipelines": set(OURS),
}
# Within a package a room, a folder or a file directly in it, imports these and no others.
ROOMS = {
    "captioner": {
        "__init__": "run",
        "llava_scenes": "run llava",
        "run": "settings decode engine store llava",
        "imports": "settings store",
        "exports": "settings store",
        "settings": "engine store llava text",
        "decode": "llava channel",
        "engine": "llava channel",
        "store": "llava text",
        "score": "text",
        "llava": "",
        "text": "",
        "channel": "",
    },
    "vse": {
        "__init__": "embedders",
        "search": "embedders samples runs",
        "onnx": "embedders sharing model runs",
        "embedders": "sharing evaluation samples model runs",
        "released": "sharing model runs recipes",
        "sharing": "evaluation model runs",
        "training": "evaluation objective samples model runs recipes",
        "objective": "samples model runs recipes",
        "evaluation": "samples runs recipes",
        "samples": "model recipes",
        "model": "recipes",
        "runs": "recipes",
        "recipes": "",
    },
    "pipelines": {
        "cli": "console",
        "commands": "console experiments workflow hub search_app pages doctor",
        "experiments": "workflow pages console",
        "workflow": "cli console",
        "hub": "search_app pages console",
        "search_app": "pages console",
        "pages": "",
        "doctor": "",
        "console": "",
    },
    "data": {
        "tables": "dense sparse sources matching files",
        "dense": "sources files images",
        "sources": "sparse matching files images",
        "sparse": "matching files",
        "scenes": "files",
        "images": "files",
        "matching": "",
        "files": "",
        "environment": "",
        "escaping": "",
        "settings": "",
        "signals": "",
        "errors": "",
    },
}
FOR_ALL = {"errors", "escaping", "environment"}
MODULES = sorted(path for name in OURS for path in (ROOT / name).rglob("*.py"))
TORCH_FREE = [
    *sorted((ROOT / "data").rglob("*.py")),
    *sorted((ROOT / "vse/recipes").glob("*.py")),
    *sorted((ROOT / "vse/evaluation").rglob("*.py")),
    *(path for path in sorted((ROOT / "vse/search").glob("*.py")) if path.name != "images.py"),
    *(ROOT / f"vse/runs/{name}.py" for name in ("config", "models")),
    *(ROOT / f"vse/samples/{name}.py" for name in ("corpus", "dense", "discovery")),
    ROOT / "vse/training/spec.py",
    ROOT / "vse/embedders/by_name.py",
    *sorted((ROOT / "pipelines/commands").glob("*.py")),
    *sorted((ROOT / "pipelines/console").glob("*.py")),
]


def dotted(path: Path) -> str:
    """captioner/engine/vllm.py -> captioner.engine.vllm"""
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


def name_room(module: str) -> str:
    """`vse.model.towers` -> `model`; what hands a package's names on is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_packages_import_downwards() -> None:
    """data <- captioner <- pipelines, data <- vse <- pipelines; and nobody the tests or tools."""
    assert {dotted(path).split(".")[0] for path in MODULES} == set(OURS)
    wrong = {}
    for path in MODULES:
        allowed = PACKAGES[path.relative_to(ROOT).parts[0]]
        if foreign := (roots(path) & {*OURS, "tests", "tools", "benchmarks"}) - allowed:
            wrong[dotted(path)] = foreign
    assert wrong == {}


def test_rooms_import_downwards() -> None:
    """Only what docs/design.md draws; so there is no circle of rooms."""
    wrong = set()
    for path in MODULES:
        module = dotted(path)
        package, room = module.split(".")[0], name_room(module)
        if room not in ROOMS[package]:
            assert room == "__init__", module
            continue
        allowed = {room, *ROOMS[package][room].split(), *(FOR_ALL if package == "data" else ())}
        for name in imported(path):
            parts = name.split(".")
            inside = parts[0] == package and len(parts) > 1 and parts[1] in ROOMS[package]
            if inside and parts[1] not in allowed:
                wrong.add(f"{module} -> {'.'.join(parts[:3])}")
    assert wrong == set()


def test_commands_do_not_import_each_other() -> None:
    """They share what is in console; `d2s caption` and `publish` have their options beside them."""
    names = {path.stem for path in (ROOT / "pipelines/commands").glob("*.py")}
    for path in (ROOT / "pipelines/commands").glob("*.py"):
        used = {name.split(".")[2] for name in imported(path) if "pipelines.commands." in name}
        assert used <= {"caption_options", "caption_model"}, path
    assert {name.replace("-", "_") for name in COMMANDS} - {"import"} <= names


def test_only_its_engine_imports_vllm() -> None:
    assert {dotted(path) for path in MODULES if "vllm" in roots(path)} == {"captioner.engine.vllm"}


def test_only_pipelines_imports_click() -> None:
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
