"""What commands print: nothing from a file, a name or a machine moves the terminal's cursor."""

import ast
import json
from pathlib import Path

import pytest

import pipelines.commands.doctor as doctor_command
import pipelines.experiments.demo as demo
from pipelines.cli import run
from pipelines.doctor.check import Check
from tests.documents import ROOT

ESCAPE = "\x1b[2J\x7f"
SHOWN = r"\x1b[2J\x7f"
ROW = dict.fromkeys(("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum"), 1.0)
# Where the terminal is written to. The others: help, which is ours; what is said before `data`,
# which may be a stranger's, can be imported; the log of a step, a file.
WRITERS = {"console/command_line.py", "console/lazy_group.py", "cli.py", "workflow/steps.py"}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = {
        "dense_to_sparse": ROW,
        "joint": ROW,
        "sparse_only": ROW,
        "oracle": ROW,
        "captioner": {"true": 1.0, "told": 1.0},
        "seconds": {"total": 1.0},
        "machine": ESCAPE,
    }
    monkeypatch.setattr(demo, "run_demo", lambda **_: (results, Path(f"{ESCAPE}/report.html")))
    checks = [Check(ESCAPE, "warn", ESCAPE, remedy=ESCAPE, facts={"found": ESCAPE})]
    monkeypatch.setattr(doctor_command, "examine", lambda say: iter(checks))


@pytest.mark.parametrize(
    "words",
    [
        ["demo"],
        ["demo", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["recipe", f"{ESCAPE}.yaml"],
        ["launch", "slurm", "--tasks", "2", "--script", f"{ESCAPE}.sh"]
        + ["--", "d2s", "caption", "--model", "llava-scenes", "--images", "photos"],
        ["review", ESCAPE],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_control_characters_are_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(words)
    said = capsys.readouterr()
    for letter in ESCAPE[0], ESCAPE[-1]:
        assert letter not in said.out + said.err
    shown = str(json.loads(said.out)) if "--json" in words else said.out + said.err
    assert SHOWN in shown


def test_every_command_prints_by_the_one_function() -> None:
    folder = ROOT / "pipelines"
    for path in folder.rglob("*.py"):
        if str(path.relative_to(folder)) not in WRITERS:
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if _is_call(node)]
            assert [ast.unparse(call) for call in calls] == [], path


def _is_call(node: ast.AST) -> bool:
    names = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names
