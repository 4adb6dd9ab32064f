"""The import hook for torchvision: what it mends, and that it leaves a whole torchvision alone."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "shims/torchvision-cpu-ops"))
import torchvision_cpu_ops as shim  # noqa: E402

NEEDED = version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
mixed = pytest.mark.skipif(not NEEDED, reason="torch and torchvision are of one build: no shim")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_it_is_installed_where_it_is_needed() -> None:
    found = importlib.util.find_spec("torchvision_cpu_ops")
    assert found is not None and found.origin is not None
    assert ("site-packages" in found.origin) == NEEDED


@mixed
def test_every_interpreter_has_it_and_pays_nothing() -> None:
    """vLLM looks at model classes in processes of its own, so nobody can be asked to install it."""
    code = (
        "import sys, torchvision_cpu_ops as shim;"
        "print(sys.meta_path[0] is shim.ExtensionFinder, 'torch' in sys.modules)"
    )
    assert run(code) == "True False"


def test_torchvision_imports_and_transforms() -> None:
    code = (
        "import numpy as np, torch, torchvision\n"
        "from torchvision.transforms import v2\n"
        "image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)\n"
        "print(tuple(v2.functional.resize(image, [2, 2]).shape))\n"
        "print(torch.ops.torchvision.nms is not None)\n"
    )
    assert run(code) == "(3, 2, 2)\nTrue"


def test_a_whole_torchvision_is_left_alone() -> None:
    before = list(shim._libraries)
    assert shim.declare_missing_schemas(SimpleNamespace(_has_ops=lambda: True)) is False
    assert shim._libraries == before


def test_other_modules_are_none_of_its_business() -> None:
    assert shim.ExtensionFinder.find_spec("torchvision", None) is None
    assert shim.ExtensionFinder.find_spec("json", None) is None


def test_installing_twice_is_once() -> None:
    before = list(sys.meta_path)
    shim.install()
    assert sys.meta_path == before
