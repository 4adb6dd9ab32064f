"""A copy of all that `make setup` reads, with locks of small wheels in the place of ours."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.setup.wheels import pin, repack, write_torch, write_wheel

ROOT = Path(__file__).resolve().parents[2]
_CLI = "import sys\ndef main(): print('d2s', *sys.argv[1:])\n"


class Checkout:
    """A clone, the wheels of a plain index, those of an index with CPU builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        self.plain, self.cpu = folder / "plain", folder / "cpu"
        for place in (self.folder, self.plain, self.cpu):
            place.mkdir()
        for name in ("Makefile", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.folder)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        for name in ("tools", "shims"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
        for package in ("captioner", "data", "pipelines", "vse"):
            (self.folder / package).mkdir()
            (self.folder / package / "__init__.py").write_text("")
        (self.folder / "pipelines/cli.py").write_text(_CLI)
        self.write_wheels()

    def write_wheels(self) -> None:
        """What the indexes have, and the locks that name it."""
        write_torch(self.cpu, cpu=True)
        write_torch(self.plain, cpu=False)
        setuptools = repack(self.plain, "setuptools")
        for name in ("nvidia-cudnn-cu13", "vllm", "linter", "site"):
            write_wheel(self.plain, name, "1.0", {f"{name.replace('-', '_')}.py": ""})
        cudnn = write_wheel(self.plain, "nvidia-cudnn-cu13", "9.0", {"nvidia_cudnn.py": ""})
        runtime = write_wheel(self.plain, "nvidia-cuda-runtime", "13.0", {"nvidia_cuda.py": ""})
        useful = write_wheel(self.plain, "useful", "1.0", {"useful.py": "A = 1\n", "more.py": ""})
        torch = [*self.plain.glob("torch*.whl"), cudnn]
        (self.folder / "requirements").mkdir(exist_ok=True)
        self.lock("cpu", setuptools, useful)
        self.lock("torch", *torch)
        self.lock("gpu", setuptools, useful, runtime, self.find("vllm"), *torch)
        self.lock("docs", self.find("site"))
        self.lock("test", self.find("linter"))

    def find(self, name: str) -> Path:
        (found,) = self.plain.glob(f"{name}-1.0-*.whl")
        return found

    def lock(self, name: str, *wheels: Path) -> None:
        path = self.folder / f"requirements/lock-{name}.txt"
        path.write_text("# A lock.\n" + "".join(map(pin, wheels)))

    def make(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`make setup`, or another target; pip with no settings but those given."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE", "MFLAGS"))}
        kept.pop("PYTHON", None)
        return subprocess.run(
            ["make", *(words or ("setup",))],
            cwd=self.folder,
            env={**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def run(self, code: str) -> str:
        """What a program says in the environment."""
        python = self.folder / ".venv/bin/python"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    def installed(self) -> Mapping[str, str]:
        """Name -> version, but for pip and setuptools."""
        code = (
            "import json; from importlib.metadata import distributions as d;"
            "print(json.dumps({f.name: f.version for f in d()}))"
        )
        found: dict[str, str] = json.loads(self.run(code))
        return {k: v for k, v in found.items() if k not in ("pip", "setuptools")}
