"""Several processes of one command: what is heard, how they end, and that none is left behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.cli import run
from pipelines.console.launcher import run_in_processes
from tests.documents import ROOT
from tests.waiting import HANG_SECONDS, wait_until
from vse.runs.folder import read_log


def script(text: str) -> list[str]:
    """A command in which `rank` is the number of the process."""
    number = "rank = int(os.environ['RANK'])"
    return [sys.executable, "-c", f"import os, signal, sys, time; {number}; {text}"]


def test_each_knows_its_number_and_the_first_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    told = "print(rank, os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'], file=sys.stderr)"
    assert run_in_processes(script(f"print('result', rank); {told}"), count=3) == 0
    out = capfd.readouterr()
    assert out.out == "result 0\n" and out.err == "0 3 0\n"


def test_the_one_that_fails_is_heard_and_the_others_are_ended(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.console.launcher.GRACE_SECONDS", 0.5)
    text = "signal.pause() if rank != 1 else sys.exit('d2s: error: the reason')"
    assert run_in_processes(script(text), count=3) == 1
    assert capfd.readouterr().err == "d2s: error: the reason\n"
    text = "signal.pause() if rank != 2 else os.kill(os.getpid(), 9)"
    assert run_in_processes(script(text), count=3) == 1
    assert "process 2 was killed by SIGKILL" in capfd.readouterr().err


def test_a_signal_reaches_all_of_them_once_and_none_is_hurried(tmp_path: Path) -> None:
    """The first one is still saving when the other has ended."""
    heard = (
        "n = []; signal.signal(15, lambda *a: n.append(1)); "
        f"open(rf'{tmp_path}/ready{{rank}}', 'w').close(); "
        "exec('while not n: time.sleep(0.05)'); time.sleep(1 - rank); "
        f"open(rf'{tmp_path}/heard{{rank}}', 'w').write(str(len(n))); sys.exit(130)"
    )
    code = (
        f"import sys; from pipelines.console import launcher; "
        "launcher.GRACE_SECONDS = 0; "
        f"sys.exit(launcher.run_in_processes({script(heard)!r}, count=2))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    wait_until(lambda: catches(launcher.pid, signal.SIGTERM))
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait() == 130
    assert [(tmp_path / f"heard{rank}").read_text() for rank in range(2)] == ["1", "1"]


def test_a_second_signal_ends_one_that_hangs(tmp_path: Path) -> None:
    hangs = (
        "signal.signal(15, lambda *a: sys.exit(130) if rank else None); signal.signal(2, print); "
        f"open(rf'{tmp_path}/ready{{rank}}', 'w').close(); exec('while True: signal.pause()')"
    )
    code = (
        "import sys; from pipelines.console import launcher; launcher.GRACE_SECONDS = 0; "
        f"sys.exit(launcher.run_in_processes({script(hangs)!r}, count=2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    wait_until(lambda: catches(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: len(list_children(process.pid)) == 1)
    process.send_signal(signal.SIGINT)  # a second SIGTERM would be ignored
    assert process.wait(HANG_SECONDS) == 130


def list_children(pid: int) -> list[str]:
    """The processes of `pid` that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            found += [path.parent.name] if parent == str(pid) and state != "Z" else []
    return found


def test_none_outlives_the_launcher(tmp_path: Path) -> None:
    child = (
        "from pipelines.console.launcher import die_with_launcher; die_with_launcher(); "
        f"f = open(rf'{tmp_path}/pid{{rank}}', 'w'); f.write(str(os.getpid())); f.close(); "
        f"os.rename(rf'{tmp_path}/pid{{rank}}', rf'{tmp_path}/ready{{rank}}'); signal.pause()"
    )
    code = f"from pipelines.console.launcher import *; run_in_processes({script(child)!r}, count=2)"
    launcher = subprocess.Popen([sys.executable, "-c", code])
    ready = [tmp_path / f"ready{rank}" for rank in range(2)]
    wait_until(lambda: all(path.exists() for path in ready))
    pids = [int(path.read_text()) for path in ready]
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_they_start_leaves_none(tmp_path: Path, number: int) -> None:
    """It comes with the first process, and there are many more to start."""
    told = f"echo $$ >> {tmp_path}/pids; kill -{int(number)} $PPID; exec sleep 600"
    code = (
        "from pipelines.console.launcher import run_in_processes; "
        f"run_in_processes(['sh', '-c', {told!r}], count=32)"
    )
    launcher = subprocess.run([sys.executable, "-c", code], capture_output=True)
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    left = [pid for pid in pids if is_alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert launcher.returncode != 0 and left == []


def test_one_that_cannot_start_leaves_none(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nrm -f $0\nexec sleep 600\n")
    program.chmod(0o755)
    with pytest.raises(FileNotFoundError):
        run_in_processes([str(program)], count=64)
    left = [int(line) for line in (tmp_path / "pids").read_text().split() if is_alive(int(line))]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    [mask] = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_d2s_train_in_two_processes_as_typed(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--stage", "1", "--recipe", "tiny.yaml", "--steps", "4", "--json"]
    arguments += ["--gpus", "2", "--set", "optim.lr=1e-3", "--set", "data.flip=0.25"]
    assert run(arguments) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["steps"] == 4
    assert said.err.count("out       runs/stage1") == 1 and "finished: 4 steps" in said.err
    config = json.loads(Path("runs/stage1/config.json").read_text())
    assert config["recipe"]["optim"]["lr"] == 1e-3 and config["recipe"]["data"]["flip"] == 0.25
    # A share of the global batch each: three steps an epoch as ever.
    assert read_log(Path("runs/stage1"))[0]["steps_per_epoch"] == 3
    # Started by Accelerate they are the same two processes.
    launched = [argument for argument in arguments if argument not in ("--gpus", "2")]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        + ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        + ["--main_process_port", "0", "-m", "pipelines.cli", *launched, "--out", "runs/launched"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Said once, by the first.
    assert json.loads(done.stdout)["steps"] == 4 and done.stderr.count("finished: 4 steps") == 1
    one, two = (load_file(f"runs/{name}/model.safetensors") for name in ("stage1", "launched"))
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_what_does_not_fit_is_said_once_and_before_anything_starts(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "--stage", "1", "--recipe", "tiny.yaml"]
    assert run([*arguments, "--gpus", "3"]) == 1
    said = capfd.readouterr().err
    assert "a global batch of 16 cannot be divided among 3 processes" in said
    assert len(said.splitlines()) == 1
    assert run([*arguments, "--gpus", "2", "--dry-run"]) == 0
    assert not Path("runs").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run([*arguments, "--gpus", "2"]) == 2
    assert os.environ["RANK"] == "0" and "omit --gpus" in capfd.readouterr().err
