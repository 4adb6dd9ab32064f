"""The group: what it lists, how fast, and what becomes of errors."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from data.errors import UserError
from pipelines import cli
from pipelines.console.command_line import print_result, say
from pipelines.console.import_path import HOME, explain_shadowing, find_shadowing
from pipelines.console.lazy_group import CommandEntry
from pipelines.console.options import NumberRange
from pipelines.console.progress import ProgressReporter
from pipelines.console.verbosity import QUIET, TRACEBACK
from tests.documents import list_commands

HEAVY = ("torch", "transformers", "vllm", "accelerate", "datasets", "pyarrow", "PIL", "numpy")
D2S = Path(sys.executable).parent / "d2s"


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A entry whose command does what a test puts into `module.act`."""
    module = ModuleType("pipelines.boom")

    @click.command()
    def command() -> object:
        return module.act()

    module.command = command
    monkeypatch.setitem(sys.modules, "pipelines.boom", module)
    monkeypatch.setitem(cli.COMMANDS, "boom", CommandEntry("pipelines.boom", "command", "Fails."))
    monkeypatch.delenv(TRACEBACK, raising=False)
    yield module


def raiser(error: BaseException):
    def act() -> None:
        raise error

    return act


def test_help_names_every_command_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-h"]) == 0
    out = capsys.readouterr().out
    places = [out.index(f"\n  {name} ") for name in cli.COMMANDS]
    assert places == sorted(places)
    promised = ["caption", "train", "evaluate", "demo", "doctor"]
    assert [name for name in cli.COMMANDS if name in promised] == promised


def test_every_command_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.COMMANDS:
        for option in ("--help", "-h"):
            assert cli.run([name, option]) == 0
            assert capsys.readouterr().out.startswith(f"Usage: d2s {name} ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines.cli import run; code = run(['--help']);"
        f"print('loaded', sorted(set({HEAVY!r}) & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded [] 0"


def test_help_of_a_command_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'vllm')));"
        "from pipelines.cli import COMMANDS, run;"
        "sys.exit(max(run([name, '--help']) for name in COMMANDS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_installed_command() -> None:
    done = subprocess.run([D2S, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("d2s, version ")


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "\nCaption:\n" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("typed", "hint"), [("trian", "'train'"), ("xyz", ": caption, ")])
def test_unknown_command(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([typed]) == 2
    said = capsys.readouterr().err
    assert f"No such command '{typed}'" in said and hint in said


def test_help_of_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help-all"]) == 0
    out = capsys.readouterr().out
    for words in list_commands():
        assert f"Usage: d2s {words} " in out


def test_quiet_prints_results_and_errors_alone(
    boom: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        say("what is going on")
        with ProgressReporter(total=2, label="work", unit="images") as progress:
            progress.update(2)
        print_result({}, ["the result, a \x1b[2Jname"], as_json=False)

    boom.act = act
    # setenv first, so that what the option leaves in the environment is taken back afterwards
    monkeypatch.setenv(QUIET, "")
    assert cli.run(["boom"]) == 0
    said = capsys.readouterr()
    assert said.out == "the result, a \\x1b[2Jname\n" and "work: 2 of 2" in said.err
    for words in (["boom", "-q"], ["-q", "boom"]):
        monkeypatch.setenv(QUIET, "")
        assert cli.run(words) == 0
        assert capsys.readouterr() == (said.out, "")
    boom.act = raiser(UserError("no such folder"))
    assert cli.run(["boom", "--quiet"]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_wrong_usage_is_one_line_like_other_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["caption", "--nonsense\x1b[2J"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("d2s: error: ") and "d2s caption --help" in said
    assert len(said.splitlines()) == 1 and "\x1b" not in said


def test_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("exit_code", [1, 2, 3])
def test_user_error_is_one_line(
    boom: ModuleType, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    boom.act = raiser(UserError("no such folder:\nx", exit_code=exit_code))
    assert cli.run(["boom"]) == exit_code
    assert capsys.readouterr() == ("", "d2s: error: no such folder: x\n")


def test_exit_codes_pass(boom: ModuleType) -> None:
    boom.act = lambda: click.get_current_context().exit(3)
    assert cli.run(["boom"]) == 3
    boom.act = lambda: 3
    assert cli.run(["boom"]) == 3
    boom.act = lambda: None
    assert cli.run(["boom"]) == 0


def test_interrupt(boom: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    boom.act = raiser(KeyboardInterrupt())
    assert cli.run(["boom"]) == 130
    assert capsys.readouterr().err.strip() == "d2s: interrupted"


def test_unexpected_error_is_named_and_shown_on_request(
    boom: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boom.act = raiser(ZeroDivisionError("by nought"))
    assert cli.run(["boom"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("d2s: error: unexpected ZeroDivisionError: by nought")
    assert " -v " in said and len(said.splitlines()) == 1
    # setenv first, so that what the option leaves in the environment is taken back afterwards
    monkeypatch.setenv(TRACEBACK, "0")
    assert cli.run(["boom", "-v"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and "in act" in said


def test_a_missing_package_points_to_the_doctor(
    boom: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    boom.act = raiser(ModuleNotFoundError("No module named 'vllm'"))
    assert cli.run(["boom"]) == 1
    assert "`d2s doctor`" in capsys.readouterr().err


def test_reader_gone_is_no_traceback() -> None:
    """`d2s ... | head`: the pipe closes while results are still written."""
    code = (
        "import sys, click, types\nfrom pipelines import cli\n"
        "module = types.ModuleType('pipelines.boom')\n"
        "module.command = click.Command('boom', callback=lambda: [print('x' * 999) for _ in "
        "range(9999)])\n"
        "sys.modules['pipelines.boom'] = module\n"
        "cli.COMMANDS['boom'] = cli.CommandEntry('pipelines.boom', 'command', '')\n"
        "sys.exit(cli.run(['boom']))"
    )
    piped = f'"{sys.executable}" -c "$CODE" | head -n 1'
    done = subprocess.run(["bash", "-c", piped], env={"CODE": code}, capture_output=True, text=True)
    assert done.stdout.startswith("xxx") and done.stderr == ""


def test_our_packages_come_from_one_place() -> None:
    assert find_shadowing() == {}


@pytest.mark.parametrize("regular", [True, False])
def test_a_stranger_named_data_is_noticed(tmp_path: Path, regular: bool) -> None:
    """Under `python -m`, a `data` in the working directory stands in front of ours."""
    (tmp_path / "data").mkdir()
    if regular:
        (tmp_path / "data/__init__.py").write_text("raise SystemExit('a stranger was imported')")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"'data' from {tmp_path / 'data'}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    # The installed command does not look there.
    done = subprocess.run([D2S, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_strangers_are_explained() -> None:
    said = explain_shadowing({"vse": "/elsewhere/vse"})
    assert "'vse' from /elsewhere/vse" in said and str(HOME) in said and "\n" not in said


@pytest.mark.parametrize(
    "words",
    [
        ["caption", "--model", "m", "--images", ""],
        ["train", "--stage", "1", "--out", " "],
        ["train", "--stage", "1", "--out="],
        ["search", "--index", "i.parquet", ""],
        ["verify", ""],
        ["publish", "model", "runs", "--repo", ""],
    ],
)
def test_a_word_that_says_nothing_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As a shell variable that is not set leaves it; in every command."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    assert "is empty" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_a_number_is_a_number(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["publish", "dataset", "d", "--repo", "a/b", "--license", "mit"]
    assert cli.run([*words, "--max-errors", number]) == 2
    assert cli.run(["caption", "--model", "m", "--images", ".", "--silence", number]) == 2


def test_every_range_of_numbers_is_of_finite_ones() -> None:
    ranges = [
        (words, option.name)
        for words, command in list_commands().items()
        for option in command.params
        if isinstance(option.type, click.types.FloatParamType)
        and not isinstance(option.type, NumberRange)
    ]
    assert ranges == []


def test_names_that_are_no_text_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's name need not be UTF-8, and may hold what moves a terminal's cursor."""
    assert cli.run(["verify", str(tmp_path / "caf\udce9\x1b[2J")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("d2s: error: ") and r"caf\udce9\x1b[2J" in said


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "runs/stage1"),
        OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300),
        OSError(errno.EROFS, "Read-only file system", b"runs"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line_of_our_own(
    boom: ModuleType, error: OSError, capsys: pytest.CaptureFixture[str]
) -> None:
    boom.act = raiser(error)
    assert cli.run(["boom"]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and error.strerror in said and "unexpected" not in said


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("2>&-", 0, "paper"),
        ("2>&- >&- <&-", 0, ""),
        (">&-", 0, ""),
        (">/dev/full", 1, "No space left"),
    ],
)
def test_streams_that_are_closed_or_full(
    streams: str, code: int, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{D2S}" recipe {streams}'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_nobody_reads_what_is_said(tmp_path: Path) -> None:
    piped = f'{{ "{D2S}" scenes --out nothing/.. 2>&1 >/dev/null; }} | true'
    done = subprocess.run(["bash", "-c", piped], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
