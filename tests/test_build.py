"""What `python -m build` makes, and the wheel at work in an environment and a folder of its own.

The packages that it needs come from the environment of the tests; our own source does not.
"""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

from pipelines.hub.space.wheel import pack_wheel
from tests.test_imports import OURS, ROOT
from tests.test_packaging import our_files, read_setup

PROGRAM = """
import contextlib, io, json, sys
from pipelines import cli
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@dataclass(frozen=True)
class Built:
    """What `python -m build` makes: an sdist, the wheel of that sdist, and a wheel of the tree."""

    sdist: Path
    wheel: Path
    direct: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Built from our files, in a copy: a build leaves things behind."""
    folder = tmp_path_factory.mktemp("built")
    for name in our_files():
        if PurePosixPath(name).parts[0] not in ("docs", "benchmarks"):
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "src" / name)
    build(folder / "src", "--outdir", str(folder / "both"))
    build(folder / "src", "--outdir", str(folder / "direct"), "--wheel")
    (sdist,), (wheel,) = (folder / "both").glob("*.tar.gz"), (folder / "both").glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    yield Built(sdist, wheel, direct)
    shutil.rmtree(folder)


def build(folder: Path, *options: str) -> None:
    """With the tools of this environment: the tests have no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "no files found matching" not in done.stdout + done.stderr


def read_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_wheel_holds_all_of_ours_and_no_more(built: Built) -> None:
    shipped = {name for name in read_wheel(built.direct) if ".dist-info/" not in name}
    expected = {name for name in our_files() if name.split("/")[0] in OURS}
    assert expected - shipped == set(), "package_data in setup.cfg misses these"
    assert shipped - expected == set()
    assert {f"{name}/py.typed" for name in OURS} <= shipped


def test_the_sdist_s_wheel_is_that_of_the_tree(built: Built) -> None:
    ours, theirs = read_wheel(built.direct), read_wheel(built.wheel)
    assert sorted(ours) == sorted(theirs)
    # The record lists the sizes of the others, in the order in which they were put in.
    assert [name for name in ours if ours[name] != theirs[name] and "/RECORD" not in name] == []


def test_the_wheel_of_a_space_is_that_of_a_release(built: Built) -> None:
    """Packed without build tools, from a clone or where d2s is installed."""
    with zipfile.ZipFile(io.BytesIO(pack_wheel())) as file:
        assert file.testzip() is None
        packed = {name: file.read(name) for name in file.namelist()}
    released = read_wheel(built.direct)
    ours = {name: content for name, content in released.items() if ".dist-info/" not in name}
    assert {name: packed[name] for name in packed if ".dist-info/" not in name} == ours
    about = {name for name in packed if ".dist-info/" in name}
    assert about < set(released) and len(about) == 5
    (entry,) = (name for name in about if name.endswith("entry_points.txt"))
    assert packed[entry].strip() == released[entry].strip()


def test_the_sdist_holds_what_tells_of_it_and_no_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "setup.cfg"} <= names
    tops = {name.split("/")[0] for name in names if "/" in name}
    assert tops == {*OURS, "d2s_vse.egg-info"}


def test_the_wheel_offers_the_extras_that_the_manual_lists(built: Built) -> None:
    (name,) = (name for name in read_wheel(built.wheel) if name.endswith("/METADATA"))
    metadata = Parser().parsestr(read_wheel(built.wheel)[name].decode())
    extras = metadata.get_all("Provides-Extra") or []
    assert sorted(extras) == sorted(read_setup()["options.extras_require"])
    table = (ROOT / "docs/install.md").read_text().partition("| extra | for |")[2]
    rows = table.partition("\n\n")[0].splitlines()[2:]
    listed = [extra for row in rows for extra in re.findall(r"`([a-z]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(extras)


class Installed:
    """An environment with the wheel, and a folder to stand in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.home, self.folder = folder / "environment", folder / "elsewhere"
        self.folder.mkdir()
        venv.create(self.home, symlinks=True)
        self.python = self.home / "bin/python"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(self.home)}))
        install = f"--python {self.python} install --quiet --no-deps --no-index"
        subprocess.run([sys.executable, "-m", "pip", *install.split(), wheel], check=True)
        self._borrow_packages()

    def _borrow_packages(self) -> None:
        """Those of this environment, behind its own; not the project, which is editable there."""
        places = [place for place in sys.path if Path(place).name == "site-packages"]
        (self.packages / "borrowed.pth").write_text("\n".join(places) + "\n")
        # A .pth file that lies in a borrowed folder is not read: the shim of torchvision is one.
        for place in places:
            for file in Path(place).glob("torchvision_cpu_ops.*"):
                (self.packages / file.name).write_bytes(file.read_bytes())

    def call(self, *words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A program of the environment with its arguments."""
        environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
        return subprocess.run(
            [str(self.home / "bin" / str(words[0])), *map(str, words[1:])],
            cwd=folder or self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )

    def run(self, *lines: Sequence[str]) -> list[tuple[int, str, str]]:
        """Many `d2s` commands in one process: exit code, output and errors of each."""
        done = self.call("python", "-c", PROGRAM, json.dumps(lines))
        assert done.returncode == 0, done.stderr
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory,
    built: Built,
) -> Iterator[Installed]:
    yield Installed(tmp_path_factory.mktemp("installed"), built.wheel)


def test_what_is_imported_is_the_wheel_s(installed: Installed) -> None:
    code = (
        "import captioner, data, pipelines, vse; "
        "print(*(p.__path__[0] for p in (captioner, data, pipelines, vse)), sep='\\n')"
    )
    done = installed.call("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert {str(Path(line).parent) for line in done.stdout.split()} == {str(installed.packages)}


def test_the_command_is_there(installed: Installed) -> None:
    done = installed.call("d2s", "--version")
    assert done.stdout.startswith("d2s, version "), done.stderr
    # A stranger's folder of one of our names does no harm to the command.
    other = installed.folder / "other"
    (other / "data").mkdir(parents=True)
    (other / "data/__init__.py").write_text("raise SystemExit('a stranger was imported')")
    done = installed.call("d2s", "recipe", folder=other)
    assert done.returncode == 0 and "f30k-vit-384" in done.stdout, done.stderr
    done = installed.call("python", "-m", "pipelines.cli", "recipe", folder=other)
    assert done.returncode == 1 and "'data' from" in done.stderr and done.stdout == ""


def test_what_comes_with_the_packages_is_found(installed: Installed) -> None:
    """The captioner's weights, recipes, tables, templates, styles and words."""
    (installed.folder / "texts.jsonl").write_text(
        "".join(
            json.dumps({"file_name": f"{n}.jpg", "id": n, "caption": f"A cat, {n} dogs."}) + "\n"
            for n in range(3)
        )
    )
    objects = {str(number): ["cat"] for number in range(3)}
    (installed.folder / "objects.json").write_text(json.dumps(objects))
    lines = [
        "--help",
        "recipe f30k-vit-384 --stage 2",
        "scenes --out scenes --train 4 --val 1 --test 1",
        "caption --model llava-scenes --images scenes --dry-run --trial 0 --json",
        "import texts.jsonl --out dense/texts --model-name me",
        "verify dense/texts",
        "review dense/texts",
        "score dense/texts --objects objects.json",
        "ablate --table stages --table depth --dry-run --scenes",
        "completion bash",
        "publish dataset dense/texts --repo me/x --license cc0-1.0 --to-dir tree --max-flagged 1",
    ]
    answers = installed.run(*(line.split() for line in lines))
    for line, (code, _, err) in zip(lines, answers, strict=True):
        assert code == 0, f"{line}: {err}"
    said = dict(zip(lines, (out for _, out, _ in answers), strict=True))
    assert "# All settings of stage 2:" in said[lines[1]]
    plan = json.loads(said[lines[3]])
    assert (plan["images"], plan["settings"]["model"]) == (6, "llava-scenes")
    assert "cc0-1.0" in (installed.folder / "tree/README.md").read_text()
    page = (installed.folder / "dense/texts/review.html").read_text()
    assert "A cat, 2 dogs." in page and "<style>" in page and "<script>" in page


def test_the_doctor_finds_the_captioner_s_weights_whole(installed: Installed) -> None:
    code = "from pipelines.doctor.models import check_shipped_model as c; print(c().state)"
    done = installed.call("python", "-c", code)
    assert done.stdout == "ok\n", done.stdout + done.stderr


def test_links_of_the_readme_lead_somewhere_on_an_index_s_page() -> None:
    """Whole addresses where setup.cfg has the repository's; without it no dead ones."""
    write = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["write_description"]
    text = "[a](docs/a.md) ![p](docs/p.png) [b](https://b.org) [c](#c) `[d](d.md)`\n"
    kept = "[b](https://b.org) [c](#c) `[d](d.md)`\n"
    place = "https://host.example/me/d2s"
    whole = f"[a]({place}/blob/main/docs/a.md) ![p]({place}/raw/main/docs/p.png) {kept}"
    assert write(text, place) == whole
    assert write(text, "") == f"a  {kept}"


def test_the_page_of_an_index_has_no_relative_link(built: Built) -> None:
    (name,) = (name for name in read_wheel(built.wheel) if name.endswith("/METADATA"))
    page = Parser().parsestr(read_wheel(built.wheel)[name].decode()).get_payload()
    assert isinstance(page, str) and page.startswith("# d2s")
    without_code = re.sub(r"^```[\s\S]*?^```$|`[^`\n]+`", "", page, flags=re.M)
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code)
    assert targets and all(re.match(r"https?://|#", target) for target in targets)
