"""`make setup` installs once, and again only when what it installs has changed.

pip and Python are played by a script that writes down how it was called.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAKE = """#!/bin/bash
echo "$@" >> "{log}"
[ ! -e "{fail}" ] || exit 1
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


class Checkout:
    """A copy of what `make setup` reads, with a Python that only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.fail = folder, folder / "calls", folder / "fail"
        for name in ("Makefile", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        for name in ("requirements", "shims"):
            shutil.copytree(ROOT / name, folder / name)
        self.python = folder / "python"
        self.python.write_text(FAKE.format(log=self.log, fail=self.fail))
        self.python.chmod(0o755)

    def make(self, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        self.log.unlink(missing_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        environment.pop("PYTHON", None)
        return subprocess.run(
            ["make", *(arguments or ("setup", f"PYTHON={self.python}"))],
            cwd=self.folder,
            env=environment | ({"PATH": path} if path else {}),
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_setup_installs_the_lock_the_shim_and_the_project(checkout: Checkout) -> None:
    done = checkout.make()
    assert done.returncode == 0, done.stderr
    installs = [call for call in checkout.calls() if " install " in call]
    assert len(installs) == 3 and all("--no-deps" in call for call in installs)
    assert installs[0].endswith("-r requirements/lock-cpu.txt")
    assert installs[1].endswith("./shims/torchvision-cpu-ops")
    assert installs[2].endswith("--editable .")
    assert "-m venv .venv" in checkout.calls()


def test_second_time_nothing_is_done(checkout: Checkout) -> None:
    checkout.make()
    done = checkout.make()
    assert (done.returncode, done.stdout, checkout.calls()) == (0, "", [])


@pytest.mark.parametrize(
    "changed",
    ["requirements/lock-cpu.txt", "setup.cfg", "shims/torchvision-cpu-ops/torchvision_cpu_ops.py"],
)
def test_a_change_installs_again_in_the_same_environment(checkout: Checkout, changed: str) -> None:
    checkout.make()
    with (checkout.folder / changed).open("a") as file:
        file.write("\n# changed\n")
    checkout.make()
    assert any(" install " in call for call in checkout.calls())
    assert not any("venv" in call.split()[:2] for call in checkout.calls())
    assert checkout.make().stdout == ""


def test_a_failed_installation_is_not_taken_for_done(checkout: Checkout) -> None:
    checkout.make()
    with (checkout.folder / "setup.cfg").open("a") as file:
        file.write("\n# changed\n")
    checkout.fail.touch()
    assert checkout.make().returncode != 0
    checkout.fail.unlink()
    done = checkout.make()
    assert done.returncode == 0 and any(" install " in call for call in checkout.calls())


def test_a_missing_python_is_one_clear_line(checkout: Checkout) -> None:
    done = checkout.make("setup", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("make: Python 3.11 was not found")
    assert not (checkout.folder / ".venv").exists()


def test_python_3_11_is_looked_for(checkout: Checkout) -> None:
    """The first of python3.11, python3, python that is a 3.11."""
    tools = checkout.folder / "tools"
    tools.mkdir()
    for tool in ("bash", "cat", "sha256sum", "grep", "mkdir", "cp", "make"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    assert "Python 3.11 was not found" in checkout.make("setup", path=str(tools)).stderr
    # A shim that is there but does not work, as version managers leave them, is passed over.
    (tools / "python3.11").write_text("#!/bin/bash\nexit 127\n")
    (tools / "python3.11").chmod(0o755)
    shutil.copy(checkout.python, tools / "python3")
    done = checkout.make("setup", path=str(tools))
    assert done.returncode == 0 and "creating .venv with python3\n" in done.stdout
