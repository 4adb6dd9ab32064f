"""Jobs side by side: in order, each after its needs, failures kept apart, GPUs shared out."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data.errors import UserError
from pipelines.workflow.forkserver import run_forked
from pipelines.workflow.jobs import Job, run_jobs
from pipelines.workflow.steps import INTERRUPTED, Command, Workflow
from pipelines.workflow.stopping import RunningCommands
from tests.waiting import meet


def make(name: str, *needs: str) -> Job:
    arguments = ("scenes", "--out", name, "--train", "2", "--val", "1", "--test", "1")
    return Job(name, (Command(f"make {name}", arguments, makes=f"{name}/facts.jsonl"),), needs)


def test_a_failure_stops_what_needs_it_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_text("a file where a folder should be")
    jobs = [make("bad"), make("never", "bad"), make("nor", "never"), make("good")]
    failed = run_jobs(Workflow(tmp_path, settings={}), jobs, workers=2)
    assert set(failed) == {"bad", "never", "nor"}
    assert failed["never"] == "needs bad" and failed["nor"] == "needs never"
    assert "logs/make-bad.log" in failed["bad"]
    assert "Directory 'bad' is a file" in (tmp_path / "logs/make-bad.log").read_text()
    assert (tmp_path / "good/facts.jsonl").exists() and not (tmp_path / "never").exists()
    assert "1 of 4 done: good" in capfd.readouterr().err
    assert "4 scenes in good" in (tmp_path / "logs/make-good.log").read_text()
    (tmp_path / "bad").unlink()
    assert run_jobs(Workflow(tmp_path, settings={}), jobs, workers=2) == {}
    record = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert all(step["done"] for step in record.values()) and len(record) == 4


def test_what_is_gone_or_asked_differently_is_made_again(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, settings={})
    [command] = make("a").commands
    assert not workflow.is_done(command)
    workflow.run_quietly(command, environment={})
    assert workflow.is_done(command)
    other = Command(command.name, (*command.arguments, "--seed", "1"), makes=command.makes)
    assert not workflow.is_done(other)
    (tmp_path / "a/facts.jsonl").unlink()
    assert not workflow.is_done(command)


class Rehearsal(Workflow):
    """Notes who runs when, with which variables, and runs nothing."""

    def __init__(self, folder: Path, meet: Callable[[], None] = lambda: None) -> None:
        super().__init__(folder, settings={})
        self.meet = meet
        self.order: list[str] = []
        self.now: set[str] = set()
        self.most = 0
        self.variables: dict[str, list[str]] = {}
        self.guard = threading.Lock()

    def run_quietly(self, command: Command, *, environment: Mapping[str, str]) -> None:
        with self.guard:
            self.order.append(command.name)
            device = environment.get("CUDA_VISIBLE_DEVICES", "")
            assert device == "" or device not in self.now, "two runs on one GPU"
            self.now.add(device or command.name)
            self.most = max(self.most, len(self.now))
            self.variables.setdefault(device, []).append(command.name)
        if command.name != "make first":
            self.meet()
        with self.guard:
            self.now.discard(device or command.name)
        if command.name == "make stop":
            raise UserError("interrupted", exit_code=INTERRUPTED)


def test_workers_share_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    workflow = Rehearsal(tmp_path, meet(2))
    jobs = [make("first"), *(make(name, "first") for name in "abcdef"), make("last", "a", "f")]
    assert run_jobs(workflow, jobs, workers=2, gpus=2) == {}
    done = workflow.order
    assert done[0] == "make first" and len(done) == 8
    assert done.index("make last") > max(done.index("make a"), done.index("make f"))
    assert workflow.most == 2 and set(workflow.variables) == {"0", "1"}


def test_workers_share_only_the_gpus_that_were_allotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch ignores what follows the first invalid name, so that it counts two.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, MIG-a,-1,0")
    workflow = Rehearsal(tmp_path, meet(2))
    assert run_jobs(workflow, [make("a"), make("b")], workers=2, gpus=2) == {}
    assert set(workflow.variables) == {"3", "MIG-a"}


def test_without_a_gpu_no_variable_is_set(tmp_path: Path) -> None:
    workflow = Rehearsal(tmp_path)
    run_jobs(workflow, [make("a"), make("b")], workers=1)
    assert set(workflow.variables) == {""} and workflow.order == ["make a", "make b"]


def test_an_interruption_stops_all(tmp_path: Path) -> None:
    workflow = Rehearsal(tmp_path)
    with pytest.raises(UserError, match="interrupted"):
        run_jobs(workflow, [make("stop"), make("a"), make("b")], workers=1)
    assert workflow.order == ["make stop"]


def test_commands_see_their_folder_and_variables(tmp_path: Path) -> None:
    heard: list[str] = []
    (tmp_path / "here/taken").mkdir(parents=True)
    (tmp_path / "here/taken/mine.txt").write_text("keep me")
    before = dict(os.environ)

    def start(*arguments: str, **environment: str) -> int:
        heard.clear()
        return run_forked(arguments, folder=tmp_path / "here", threads=1, environment=environment,
                        tell=heard.append, running=RunningCommands())  # fmt: skip

    assert start("scenes", "--out", "taken") == 1
    assert [line.startswith("d2s: error: taken contains other files") for line in heard] == [True]
    assert start("scenes", "--out", "taken", D2S_TRACEBACK="1") == 1
    assert any("Traceback" in line for line in heard)
    assert start("scenes", "--nope") == 2 and "--nope" in heard[-1]
    assert start("scenes", "--out", "new", "--train", "2", "--val", "1", "--test", "1") == 0
    assert (tmp_path / "here/new/facts.jsonl").exists()
    assert dict(os.environ) == before
