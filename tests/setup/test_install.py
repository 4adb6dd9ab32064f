"""`make setup` as on the machine of a stranger: real make, venv and pip, indexes of small wheels.

The same with the real packages, too heavy for every run: `python -m tools.stranger`.
"""

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.setup.checkout import Checkout
from tests.setup.index import serve_index, serve_silence
from tests.setup.wheels import pin, write_wheel
from tools.builds import look_for_gpu

OURS = {"d2s-vse": "0.1.0", "useful": "1.0"}
CPU = {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"}
PLAIN = {"torch": "2.13.0", "torchvision": "0.28.0", "nvidia-cudnn-cu13": "9.0"}
SHIM = {"torchvision-cpu-ops": "1.0"}
TRY = "import torchvision; print('imports')"
DEAD = "http://127.0.0.1:9/simple"  # nobody listens there


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `python -m venv` makes it, which takes seconds."""
    home = tmp_path_factory.mktemp("made") / "environment"
    venv.create(home, symlinks=True, with_pip=True)
    return home


@pytest.fixture
def bare(tmp_path: Path) -> Checkout:
    """A clone without an environment."""
    return Checkout(tmp_path)


@pytest.fixture
def checkout(bare: Checkout, environment: Path) -> Checkout:
    """A clone with one that has pip and nothing else."""
    shutil.copytree(environment, bare.folder / ".venv", symlinks=True)
    return bare


@pytest.fixture
def index(bare: Checkout) -> Iterator[str]:
    with serve_index(bare.plain) as address:
        yield address


def test_the_plain_index_alone_then_a_cpu_index(checkout: Checkout, index: str) -> None:
    """An index that never answers is none; another build replaces torch and what it needed."""
    with serve_silence() as silent:
        done = checkout.make(PIP_INDEX_URL=index, TORCH_CPU_INDEX=silent)
    assert done.returncode == 0, done.stderr
    assert checkout.installed() == OURS | PLAIN and checkout.run(TRY) == "imports"
    assert checkout.run("import torch; print(torch.CPU)") == "False"
    again = checkout.make(PIP_INDEX_URL=DEAD)
    assert (again.returncode, again.stdout) == (0, ""), "nothing is asked where nothing changed"
    with serve_index(checkout.cpu) as cpu:
        done = checkout.make(BUILD="cpu", PIP_INDEX_URL=index, TORCH_CPU_INDEX=cpu)
    assert done.returncode == 0, done.stderr
    assert checkout.installed() == OURS | CPU and checkout.run(TRY) == "imports"
    assert "d2s demo --seed 1" in checkout.make("demo", "ARGS=--seed 1").stdout


def test_a_wheel_on_disk_then_the_plain_build(checkout: Checkout, index: str) -> None:
    """The shim is there beside a torchvision of another build, and only then."""
    disk = checkout.folder.parent / "disk"
    disk.mkdir()
    shutil.copy(checkout.cpu / "torch-2.13.0+cpu-py3-none-any.whl", disk)
    place = {"PIP_INDEX_URL": index, "PIP_FIND_LINKS": str(disk), "TORCH_CPU_INDEX": DEAD}
    assert checkout.make(**place).returncode == 0
    mixed = OURS | {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}
    assert checkout.installed() == mixed | SHIM and checkout.run(TRY) == "imports"
    done = checkout.make(**place, BUILD="plain")
    assert done.returncode == 0, done.stderr
    assert checkout.installed() == OURS | PLAIN and checkout.run(TRY) == "imports"


def test_a_build_that_was_asked_for_is_not_replaced_by_another(
    checkout: Checkout, index: str
) -> None:
    """Nor is one that is there, when its index is gone and something else of the lock changed."""
    place = {"PIP_INDEX_URL": index, "TORCH_CPU_INDEX": DEAD}
    refused = checkout.make(BUILD="cpu", **place)
    assert refused.returncode != 0 and "BUILD=plain" in refused.stderr.splitlines()[0]
    assert "torch" not in checkout.installed()
    with serve_index(checkout.cpu) as cpu:
        assert checkout.make(PIP_INDEX_URL=index, TORCH_CPU_INDEX=cpu).returncode == 0
    newer = write_wheel(checkout.plain, "useful", "2.0", {"useful.py": "A = 2\n"})
    checkout.lock("cpu", *checkout.plain.glob("setuptools-*.whl"), newer)
    done = checkout.make(**place)
    assert done.returncode == 0, done.stderr
    assert checkout.installed() == OURS | CPU | {"useful": "2.0"}


def test_layers_and_what_falls_out_of_a_lock(checkout: Checkout, index: str) -> None:
    place = {"PIP_INDEX_URL": index, "TORCH_CPU_INDEX": DEAD}
    assert checkout.make(**place).returncode == 0
    assert checkout.make("lint", **place).stderr.count("No module named ruff") == 1
    whole = OURS | PLAIN | {"site": "1.0", "linter": "1.0"}
    assert checkout.installed() == whole
    # What a target does not need stays for those that do.
    assert checkout.make(**place).stdout == "" and checkout.installed() == whole
    newer = write_wheel(checkout.plain, "useful", "2.0", {"useful.py": "A = 2\n"})
    checkout.lock("test")
    checkout.lock("cpu", *checkout.plain.glob("setuptools-*.whl"), newer)
    assert checkout.make(**place).returncode == 0
    assert checkout.installed() == OURS | PLAIN | {"site": "1.0", "useful": "2.0"}


def test_a_file_that_is_not_the_locked_one(checkout: Checkout, index: str) -> None:
    """As with a download that was cut or tampered with. The next call goes on."""
    place = {"PIP_INDEX_URL": index, "TORCH_CPU_INDEX": DEAD}
    whole = checkout.find("useful").read_bytes()
    write_wheel(checkout.plain, "useful", "1.0", {"useful.py": "A = 'wrong'\n"})
    failed = checkout.make(**place)
    assert failed.returncode != 0 and failed.stderr.splitlines()[-2].startswith("make: pip could")
    checkout.find("useful").write_bytes(whole)
    assert checkout.make(**place).returncode == 0 and checkout.installed() == OURS | PLAIN


def test_what_was_killed_is_mended(bare: Checkout, index: str) -> None:
    """Packages, the stamp, pip, Python itself; and an environment of another version of it."""
    place = {"PIP_INDEX_URL": index, "TORCH_CPU_INDEX": DEAD}
    old = bare.folder / ".venv/lib/python3.10/site-packages"
    old.mkdir(parents=True)
    assert bare.make(**place).returncode == 0 and not old.exists()
    site = next(bare.folder.glob(".venv/lib/python3*/site-packages"))
    stamp = bare.folder / ".venv/.d2s-setup"
    assert json.loads(stamp.read_text())["complete"]

    (site / "more.py").unlink()
    (site / "nvidia_cudnn_cu13-9.0.dist-info/RECORD").unlink()
    (site / "~orch").mkdir()
    stamp.write_text("")
    done = bare.make(**place)
    assert done.returncode == 0, done.stderr
    assert bare.installed() == OURS | PLAIN and not (site / "~orch").exists()
    assert bare.run("import more, useful; print(useful.A)") == "1"

    shutil.rmtree(site / "pip/_internal")
    for link in bare.folder.glob(".venv/bin/python*"):
        link.unlink()
        link.symlink_to("/no/such/python")
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"complete": False}))
    done = bare.make(**place)
    assert done.returncode == 0, done.stderr
    assert bare.installed() == OURS | PLAIN and bare.run(TRY) == "imports"


def test_a_gpu_is_found(checkout: Checkout, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a driver that knows the CUDA of the lock it has a lock of its own."""
    tools = checkout.folder.parent / "bin"
    path = f"{tools}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    for seen, expected in (
        ("echo 'NVIDIA H100 80GB HBM3, 580.65.06'", (True, "NVIDIA H100 80GB HBM3")),
        ("echo 'NVIDIA T4, 535.1'", (False, "NVIDIA T4, but driver 535 is older than 580")),
        ("echo 'No devices were found'; exit 6", (False, "nvidia-smi reports no GPU")),
    ):
        write_tool(tools / "nvidia-smi", seen)
        found, why = look_for_gpu("13")
        assert (found, why[: len(expected[1])]) == expected
    write_tool(tools / "nvidia-smi", "echo 'NVIDIA H100 80GB HBM3, 580.65.06'")
    done = checkout.make(PIP_INDEX_URL=index, TORCH_CPU_INDEX=DEAD, PATH=path)
    assert done.returncode == 0 and "H100" in done.stdout, done.stderr
    more = {"vllm": "1.0", "nvidia-cuda-runtime": "13.0"}
    assert checkout.installed() == OURS | PLAIN | more and checkout.run(TRY) == "imports"


def test_what_is_refused_in_one_line(bare: Checkout) -> None:
    tools = bare.folder.parent / "bin"
    for tool in ("sh", "make", "uname", "grep"):
        tools.mkdir(exist_ok=True)
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    no_python = bare.make(PATH=str(tools))
    assert no_python.returncode != 0 and "3.11, 3.12 or 3.13" in no_python.stderr.splitlines()[0]
    write_tool(tools / "python3", "echo 'it is Python 3.9' >&2; exit 1")
    assert "python3: it is Python 3.9" in bare.make(PATH=str(tools)).stderr
    # A shim that is there but does not work, as version managers leave them, is passed over.
    write_tool(tools / "python3.11", "echo 'pyenv: command not found' >&2; exit 127")
    assert "pyenv" not in bare.make(PATH=str(tools)).stderr
    missing = bare.make(PYTHON="/no/such/python")
    assert missing.returncode != 0 and "PYTHON=" in missing.stderr.splitlines()[0]
    wrong = bare.make(BUILD="cuda")
    assert wrong.returncode != 0 and "gpu, cpu, plain" in wrong.stderr.splitlines()[0]
    (tools / "uname").unlink()
    write_tool(tools / "uname", "echo MINGW64_NT-10.0")
    windows = bare.make(PATH=f"{tools}:{os.environ['PATH']}")
    assert windows.returncode != 0 and "WSL 2" in windows.stderr.splitlines()[0]
    assert not (bare.folder / ".venv").exists()


def test_a_lock_line_is_checked_by_its_hash(checkout: Checkout) -> None:
    """The reading of locks: markers hold or do not, hashes are passed over."""
    useful = pin(checkout.find("useful"))
    other = useful.replace("useful==1.0", "other==1.0 ; sys_platform == 'win32'")
    (checkout.folder / "requirements/lock-docs.txt").write_text(f"# A lock.\n{useful}{other}")
    code = "from tools.packages import read_lock; print(read_lock('docs'))"
    python = shutil.which("python3") or "python3"
    done = subprocess.run([python, "-c", code], cwd=checkout.folder, capture_output=True, text=True)
    assert done.stdout.strip() == "{'useful': '1.0'}", done.stderr


def write_tool(path: Path, script: str) -> None:
    """A program that a shell finds on its PATH."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
