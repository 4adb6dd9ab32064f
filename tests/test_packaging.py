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
from tools.lock import LEFT_OUT, PYTHONS, read_bounds

LOCKS = {path.stem: path for path in sorted((ROOT / "requirements").glob("lock-*.txt"))}
# What the environment of the tests is made of; torch is of one build or another.
HERE = ("lock-cpu", "lock-torch", "lock-docs", "lock-test")


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


def read_lock(*names: str) -> dict[str, str]:
    """Canonical name -> version of what some locks pin for this machine."""
    lines = "".join(LOCKS[name].read_text() for name in names).splitlines()
    pins = [Requirement(line.rstrip(" \\")) for line in lines if line[0] not in "# "]
    return {
        canonicalize_name(pin.name): str(pin.specifier).lstrip("=")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


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
    # A model of others, if its user has the package.
    declared.add("sentence-transformers")
    # Imported where it is asked for, with a line that names the extra.
    for extra in ("ray", "faiss", "lora", "onnx", "serve"):
        declared |= set(parse(setup["options.extras_require"][extra]))
    providers = packages_distributions()
    for path in MODULES:
        for name in roots(path) - set(OURS) - set(sys.stdlib_module_names):
            found = {canonicalize_name(provider) for provider in providers.get(name, [name])}
            assert (found | {name}) & declared, f"{path.relative_to(ROOT)} imports {name}"


def test_locks_are_pins_with_hashes_and_name_no_host() -> None:
    pin = re.compile(r"[a-z0-9-]+={2,3}[A-Za-z0-9.+]+( ; .+)?")
    for path in LOCKS.values():
        text = path.read_text()
        assert "://" not in text
        for entry in re.split(r"\n(?! )", text.strip()):
            first, *hashes = entry.split(" \\\n")
            assert entry.startswith("#") or (pin.fullmatch(first) and hashes), entry
            assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes)


def test_the_locks_keep_to_the_bounds_of_setup() -> None:
    """What is always needed stands in both that can be run with, and each extra in its lock."""
    base, extras = read_bounds()
    others = [line for name in extras if name not in ("cpu", "vllm") for line in extras[name]]
    whole, gpu, demo = read_lock(*HERE), read_lock("lock-gpu"), read_lock("lock-cpu", "lock-torch")
    for lock, lines in (
        (demo, [*base, *extras["cpu"]]),
        (gpu, [*base, *extras["vllm"]]),
        (whole, [*base, *extras["cpu"], *others]),
        (gpu | whole, others),
    ):
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate():
                name = canonicalize_name(requirement.name)
                assert requirement.specifier.contains(lock[name]), requirement


def test_no_lock_pins_what_another_does() -> None:
    """Layers lie upon each other; only the GPU's stands alone."""
    names = [name for lock in HERE for name in read_lock(lock)]
    assert len(names) == len(set(names))
    gpu, layers = read_lock("lock-gpu"), read_lock("lock-docs", "lock-test")
    assert {name for name in layers if gpu.get(name, layers[name]) != layers[name]} == set()


def test_the_demo_is_lean() -> None:
    """What only tests and documents need comes with `make test` and `make docs`."""
    heavy = {"ray", "wandb", "sphinx", "playwright", "ipykernel", "ruff", "mypy", "pytest", "uv"}
    assert not heavy & set(read_lock("lock-cpu")) and not heavy & set(read_lock("lock-gpu"))
    assert heavy <= set(read_lock("lock-docs", "lock-test"))


def test_what_is_installed_is_what_is_locked_and_whole() -> None:
    """The locks are installed without dependencies, so one that is missing is not there at all."""
    lock, without = read_lock(*HERE), {*LEFT_OUT, "d2s-vse"}
    for name, pinned in lock.items():
        if name.startswith(("nvidia-", "cuda-")):  # only beside torch as the package index has it
            continue
        assert version(name).partition("+")[0] == pinned, f"{name}: `make test` installs the locks"
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in lock or needed in without, f"{name} needs {requirement}"
                wanted = "torch" in needed or requirement.specifier.contains(lock.get(needed, ""))
                assert needed in without or wanted, f"{name} needs {requirement}"


def test_the_python_that_is_taken_is_the_one_that_metadata_name() -> None:
    classified = re.findall(r"Python :: (3\.\d+)", read_setup()["metadata"]["classifiers"])
    assert read_setup()["options"]["python_requires"] == ">=3.11,<3.14"
    assert classified == ["3.11", "3.12", "3.13"] == sorted({v[:4] for v in PYTHONS})


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
