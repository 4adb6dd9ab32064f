"""A workflow runs real d2s commands, remembers what is done, and stops at the first that fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.errors import UserError
from pipelines.workflow import steps
from pipelines.workflow.steps import Command, Workflow
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
TINY = ("--train", "2", "--val", "1", "--test", "1")


def scenes(name: str, out: str) -> Command:
    return Command(name, ("scenes", "--out", out, *TINY))


def test_a_finished_step_is_not_done_again(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    Workflow(tmp_path, settings={"seed": 0}).run(scenes("scenes", "world"))
    assert (tmp_path / "world" / "dataset_scenes.json").exists()
    first = capfd.readouterr().err
    assert "$ d2s scenes --out world" in first
    again = Workflow(tmp_path, settings={"seed": 0})
    again.run(scenes("scenes", "world"))
    assert "already done" in capfd.readouterr().err
    assert again.seconds()["scenes"] > 0


def test_a_setting_that_was_not_recorded_is_unknown(tmp_path: Path) -> None:
    """An earlier version may not have known it."""
    Workflow(tmp_path, settings={"seed": 0})
    Workflow(tmp_path, settings={"seed": 0, "recipe": "a"})
    with pytest.raises(UserError, match="recipe is a there and b here"):
        Workflow(tmp_path, settings={"seed": 0, "recipe": "b"})


def test_a_failing_step_stops_the_walk_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "mine.txt").write_text("keep me")
    workflow = Workflow(tmp_path, settings={})
    with pytest.raises(UserError, match=r"scenes failed \(exit code 1\).*d2s scenes --out world"):
        workflow.run(scenes("scenes", "world"))
    assert not workflow.record["steps"]["scenes"]["done"]
    (tmp_path / "world" / "mine.txt").unlink()
    workflow.run(scenes("scenes", "world"))
    assert json.loads((tmp_path / "steps.json").read_text())["steps"]["scenes"]["done"]


def test_a_step_that_left_out_images_is_done(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    rows = [{"file_name": "a.jpg", "caption": "A house."}, {"file_name": "b.jpg", "caption": None}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ("import", "texts.jsonl", "--model-name", "m", "--out", "dense")
    workflow = Workflow(tmp_path, settings={})
    workflow.run(Command("import", told))
    assert "left out" in capfd.readouterr().err
    workflow.run(Command("import", told))
    assert "already done" in capfd.readouterr().err


def test_a_captioning_run_with_errors_is_not_done(tmp_path: Path) -> None:
    """Methods that read its texts would train on fewer images than the baseline."""
    workflow = Workflow(tmp_path, settings={})
    workflow._run(Command("evaluate", ("evaluate",)), lambda: 3, None)
    with pytest.raises(UserError, match="exit code 3"):
        workflow._run(Command("caption", ("caption",)), lambda: 3, None)


def test_chains_side_by_side_mark_their_lines(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    workflow = Workflow(tmp_path, settings={})
    workflow.run_side_by_side([scenes("a", "one")], [scenes("b", "two")])
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("[a] 4 scenes in one") for line in lines)
    assert any(line.startswith("[b] 4 scenes in two") for line in lines)


def test_a_failure_beside_another_chain_is_raised(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("a file where a folder should be")
    workflow = Workflow(tmp_path, settings={})
    with pytest.raises(UserError, match="b failed"):
        workflow.run_side_by_side([scenes("a", "one")], [scenes("b", "two"), scenes("c", "three")])
    assert workflow.record["steps"]["a"]["done"]
    assert "c" not in workflow.record["steps"]


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    Workflow(tmp_path, settings={"seed": 0, "train": 10})
    with pytest.raises(UserError, match="seed is 0 there and 1 here"):
        Workflow(tmp_path, settings={"seed": 1, "train": 10})


def test_two_processes_do_not_work_on_one_folder(tmp_path: Path) -> None:
    with Workflow.open(tmp_path, settings={}) as workflow:
        workflow.run(scenes("a", "one"))
        with (
            pytest.raises(UserError, match="another process"),
            Workflow.open(tmp_path, settings={}),
        ):
            pass
    with Workflow.open(tmp_path, settings={}) as workflow:
        assert workflow.is_done(scenes("a", "one"))


def test_steps_name_the_code_that_ran_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def start(code: str) -> Workflow:
        monkeypatch.setattr(steps, "hash_code", lambda: code)
        return Workflow(tmp_path, settings={})

    with pytest.raises(UserError):
        start("old")._run(Command("b", ("train",)), lambda: 1, None)
    start("old").run(scenes("a", "one"))
    assert "other code" not in capfd.readouterr().err
    workflow = start("new")
    told = capfd.readouterr().err
    assert "run by other code" in told and "old" in told and "new" in told
    workflow.run(scenes("a", "one"))
    assert workflow.list_code() == ["old"]
    # It goes on where the first attempt stopped.
    workflow._run(Command("b", ("train",)), lambda: 0, None)
    workflow.run(scenes("c", "three"))
    assert workflow.list_code() == ["old", "new"]
    assert workflow.list_code({"a"}) == ["old"] and workflow.list_code({"c"}) == ["new"]
    record = json.loads((tmp_path / "steps.json").read_text())
    del record["steps"]["a"]["code"]
    (tmp_path / "steps.json").write_text(json.dumps(record))
    assert start("new").list_code({"a"}) == ["unknown"]


# A command that, interrupted, saves its state only once it may.
SLOW = """#!{python}
import os, sys, time
sys.path.insert(0, {root!r})
from data.signals import StopRequest
with StopRequest() as stop:
    open("pid", "w").write(str(os.getpid()) + ".")
    while not stop.asked:
        time.sleep(0.02)
    open("heard", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.02)
open("saved", "w").close()
sys.exit(130)
"""
# The workflow tells each time that it begins to wait for the command.
DRIVER = """
import itertools, sys
from pathlib import Path
from types import SimpleNamespace
from pipelines.workflow import steps
steps.sys = SimpleNamespace(executable=sys.argv[2], stderr=sys.stderr)
follow, numbers = steps._follow, itertools.count(1)
def tell(*given):
    (Path(sys.argv[1]) / f"waiting{next(numbers)}").touch()
    return follow(*given)
steps._follow = tell
with steps.Workflow.open(Path(sys.argv[1]), settings={}) as workflow:
    command = steps.Command("slow", ())
    if sys.argv[3] == "beside":
        workflow.run_side_by_side([command, steps.Command("later", ())])
    workflow.run(command, prefix=sys.argv[3] or None)
"""


def start_slow(folder: Path, *, prefix: str) -> "tuple[subprocess.Popen, int]":
    """The workflow in a group of its own, as in a terminal, and its command's process id."""
    program = folder / "slow"
    program.write_text(SLOW.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    workflow = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), str(program), prefix],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    path = folder / "pid"
    wait_for(workflow, folder / "waiting1")
    wait_until(
        lambda: workflow.poll() is not None or (path.exists() and path.read_text()[-1:] == ".")
    )
    return workflow, int(path.read_text().rstrip("."))


def wait_for(workflow: subprocess.Popen, path: Path) -> None:
    wait_until(lambda: workflow.poll() is not None or path.exists())
    assert workflow.poll() is None


@pytest.mark.parametrize("prefix", ["", "slow"])
def test_an_interrupted_command_may_save_its_state(tmp_path: Path, prefix: str) -> None:
    workflow, _ = start_slow(tmp_path, prefix=prefix)
    os.killpg(workflow.pid, signal.SIGINT)
    wait_for(workflow, tmp_path / "waiting2")
    (tmp_path / "go").touch()
    told = workflow.communicate()[1]
    assert b"KeyboardInterrupt" in told
    assert (tmp_path / "saved").exists()
    assert json.loads((tmp_path / "steps.json").read_text())["steps"]["slow"]["done"] is False


@pytest.mark.parametrize("prefix", ["", "slow", "beside"])
def test_sigterm_is_passed_on_to_the_command(tmp_path: Path, prefix: str) -> None:
    workflow, command = start_slow(tmp_path, prefix=prefix)
    os.kill(workflow.pid, signal.SIGTERM)
    wait_until(lambda: workflow.poll() is not None or (tmp_path / "heard").exists())
    assert workflow.poll() is None, "it did not wait"
    (tmp_path / "go").touch()
    assert b"KeyboardInterrupt" in workflow.communicate()[1]
    assert (tmp_path / "saved").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(command, 0)
    record = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert list(record) == ["slow"] and not record["slow"]["done"]


def test_a_command_that_hears_sigterm_twice_saves_its_state(tmp_path: Path) -> None:
    """As by systemd, Slurm and `timeout`, which signal the whole group."""
    workflow, command = start_slow(tmp_path, prefix="")
    os.killpg(workflow.pid, signal.SIGTERM)
    wait_for(workflow, tmp_path / "waiting2")
    wait_for(workflow, tmp_path / "heard")
    os.kill(command, signal.SIGTERM)
    (tmp_path / "go").touch()
    workflow.communicate()
    assert (tmp_path / "saved").exists()


def test_sigterm_ends_commands_of_jobs(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from pipelines.workflow.jobs import Job, run_jobs
from pipelines.workflow.steps import Command, Workflow
many = ("scenes", "--out", "world", "--train", "1000000")
with Workflow.open(Path(), settings={}) as workflow:
    jobs = [Job(name, (Command(name, (*many[:2], name, *many[3:])),)) for name in "ab"]
    run_jobs(workflow, jobs, workers=1)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    workflow = psutil.Process(process.pid)

    def list_commands() -> list[psutil.Process]:
        """They are children of the server that starts them."""
        return [one for one in workflow.children(recursive=True) if one.ppid() != process.pid]

    wait_until(lambda: process.poll() is not None or list_commands())
    commands = list_commands()
    process.terminate()
    assert process.wait() not in (0, -signal.SIGTERM)
    assert len(commands) == 1 and not commands[0].is_running()
    record = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert list(record) == ["a"] and not record["a"]["done"]


def test_a_second_interrupt_ends_the_command_at_once(tmp_path: Path) -> None:
    workflow, command = start_slow(tmp_path, prefix="")
    os.kill(workflow.pid, signal.SIGINT)
    wait_for(workflow, tmp_path / "waiting2")
    os.kill(workflow.pid, signal.SIGINT)
    workflow.communicate()
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(command, 0)


def test_an_interrupt_while_a_command_starts_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes before whoever started the command knows of its process."""
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *given: object, **options: object) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(30)"])
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        Workflow(tmp_path, settings={}).run(Command("slow", ("scenes",)))
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], signal.SIGKILL)


def test_the_clock_and_a_step_do_not_write_at_once(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, settings={})
    lock, asked, ended = workflow._lock, threading.Event(), threading.Event()

    @contextlib.contextmanager
    def ask() -> Iterator[None]:
        asked.set()
        with lock:
            yield

    def tick() -> None:
        with workflow.clock():
            workflow.record["steps"]["a"] = {"seconds": 1.0, "done": True}
        ended.set()

    workflow._lock = ask()
    with lock:
        thread = threading.Thread(target=tick)
        thread.start()
        wait_until(lambda: asked.is_set() or ended.is_set())
        assert not ended.is_set()
    thread.join()
    assert json.loads((tmp_path / "steps.json").read_text())["wall_seconds"] > 0
