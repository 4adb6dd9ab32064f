"""Completion by the shell: what click answers for words typed so far, and the shells' scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.commands.completion import SHELLS

D2S = Path(sys.executable).parent / "d2s"


def complete(typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What the shell is offered where the cursor stands, behind the last character."""
    words = typed.split()
    monkeypatch.setenv("_D2S_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - (not typed.endswith(" "))))
    with pytest.raises(SystemExit) as ended:
        cli.run([])
    assert ended.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("d2s ", [f"plain,{name}" for name in cli.COMMANDS]),
        ("d2s ex", ["plain,export", "plain,export-onnx"]),
        ("d2s --vers", ["plain,--version"]),
        ("d2s train --st", ["plain,--stage", "plain,--steps"]),
        ("d2s train --stage ", ["plain,1", "plain,2", "plain,joint", "plain,sparse"]),
        ("d2s publish ", ["plain,dataset", "plain,model", "plain,space"]),
        ("d2s publish dataset --li", ["plain,--license"]),
        ("d2s completion ", [f"plain,{name}" for name in SHELLS]),
        ("d2s recipe f30k-vit", ["plain,f30k-vit-384", "plain,f30k-vit-480"]),
        ("d2s train --recipe rel", ["plain,released"]),
        ("d2s ablate --table st", ["plain,stages"]),
        ("d2s caption --model llava-s", ["plain,llava-scenes"]),
        ("d2s reproduce my", ["file,my"]),
        ("d2s train --init ", ["dir,"]),
    ],
)
def test_words_are_completed(
    typed: str,
    offered: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert complete(typed, monkeypatch, capsys) == offered


def test_commands_are_completed_without_importing_them() -> None:
    code = (
        "import sys; from pipelines import cli\n"
        "try: cli.run([])\n"
        "except SystemExit: pass\n"
        "print(sorted(door.module for door in cli.COMMANDS.values() if door.module in sys.modules))"
    )
    asked = {"_D2S_COMPLETE": "bash_complete", "COMP_WORDS": "d2s ", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "plain,caption" in lines and lines[-1] == "[]"


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_the_shells_own(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_D2S_COMPLETE={shell}_complete" in script
    # It reaches us by the name that is typed; a path of this machine would be of no use elsewhere.
    assert str(D2S.parent) not in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    """The function of the script, called as bash calls it."""
    assert cli.run(["completion", "bash"]) == 0
    program = capsys.readouterr().out + (
        'COMP_WORDS=(d2s evalu) COMP_CWORD=1; _d2s_completion d2s; echo "${COMPREPLY[@]}"'
    )
    path = f"{D2S.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", program], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("evaluate\n", "")
