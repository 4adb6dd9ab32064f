"""An engine in a process of its own: what becomes of its images when it hangs, dies or grows."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from captioner.engine.protocol import Generation, Request
from captioner.engine.scripted import ScriptedEngine
from captioner.engine.supervised import SupervisedEngine
from captioner.engine.watchdog import Watchdog, find_memory, measure_memory
from captioner.run.session import run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from data.errors import UserError
from data.sources.record import make_sample_id
from tests.captioner.images import write_images
from tests.captioner.run.test_session import shard_bytes


def request(key: str) -> Request:
    return Request(key, Image.new("RGB", (14, 28), (9, 9, 9)), f"hash of {key}", seed=7)


@contextmanager
def host(events: list[str] | None = None, **scripted: Any) -> Iterator[SupervisedEngine]:
    watch = scripted.pop("watch", None) or Watchdog()
    say = events.append if events is not None else lambda _: None
    engine = SupervisedEngine({"engine": "scripted", **scripted}, watch=watch, on_event=say)
    try:
        yield engine
    finally:
        engine.close()


def collect_all(engine: SupervisedEngine) -> dict[str, Generation]:
    done: dict[str, Generation] = {}
    while engine.pending:
        for generation in engine.collect():
            assert generation.key not in done
            done[generation.key] = generation
    return done


def collect_until_open(engine: SupervisedEngine) -> None:
    """Wait for an engine that is started anew with nothing in it."""
    while not engine.room:
        assert engine.collect() == []


def ask(engine: SupervisedEngine, count: int) -> list[str]:
    keys = [f"image {number}" for number in range(count)]
    for key in keys:
        engine.submit(request(key))
    return keys


def test_the_texts_are_those_of_the_engine_itself() -> None:
    direct = ScriptedEngine()
    with host(window=9) as engine:
        assert (engine.name, engine.window) == ("scripted", 9)
        assert engine.describe() == direct.describe()
        keys = ask(engine, 20)
        assert engine.pending == 20
        done = collect_all(engine)
    for key in keys:
        direct.submit(request(key))
    expected: dict[str, Generation] = {}
    while direct.pending:
        expected |= {generation.key: generation for generation in direct.collect()}
    assert done == expected


def test_a_dead_engine_is_started_anew_and_nothing_is_lost(tmp_path: Path) -> None:
    events: list[str] = []
    once = str(tmp_path / "once")
    with host(events, faults={"image 9": "die"}, once=once) as engine:
        assert engine.measure() == {"restarts": 0}
        keys = ask(engine, 20)
        done = collect_all(engine)
        assert engine.measure()["restarts"] == 1
    assert sorted(done) == sorted(keys) and not any(text.error for text in done.values())
    assert len(events) == 1 and "exit code 17" in events[0]


def test_what_it_is_doing_is_heard() -> None:
    with host(seconds_per_step=0.1, window=64) as engine:
        ask(engine, 64)
        loads = []
        while engine.pending:
            engine.collect()
            loads.append(engine.measure())
    heard = [load for load in loads if "running" in load]
    assert any(load["running"] == 4 and load["waiting"] > 0 for load in heard)
    assert all(load["restarts"] == 0 for load in heard)


def test_an_image_that_kills_the_engine_each_time_is_an_error_and_the_others_are_not() -> None:
    events: list[str] = []
    with host(events, faults={"image 9": "die"}) as engine:
        keys = ask(engine, 20)
        done = collect_all(engine)
        # The engine works on.
        engine.submit(request("another"))
        assert collect_all(engine)["another"].error is None
    assert sorted(done) == sorted(keys)
    assert [key for key, text in done.items() if text.error] == ["image 9"]
    assert "the engine ended on this image: its process ended" in str(done["image 9"].error)
    # Two ends, and the halves of twenty.
    assert 3 <= len(events) <= 7


class Clock:
    """It goes only from a fault, which makes the file `once`, to the first event."""

    def __init__(self, once: Path, events: list[str]) -> None:
        self._once, self._events, self._now = once, events, 0.0

    def __call__(self) -> float:
        if self._once.exists() and not self._events:
            self._now += 1.0
        return self._now


def test_an_engine_that_falls_silent_is_ended_and_started_anew(tmp_path: Path) -> None:
    events: list[str] = []
    once = tmp_path / "once"
    watch = Watchdog(silence_seconds=4, clock=Clock(once, events))
    with host(events, faults={"image 2": "hang"}, once=str(once), watch=watch) as engine:
        keys = ask(engine, 8)
        done = collect_all(engine)
    assert sorted(done) == sorted(keys) and not any(text.error for text in done.values())
    assert len(events) == 1 and "it was silent for" in events[0]


def test_slow_texts_are_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds for each, one after the other."""
    events: list[str] = []
    come: list[dict[str, Any]] = []
    now = 0.0
    with host(events, watch=Watchdog(silence_seconds=6, clock=lambda: now)) as engine:
        receive = engine._process.receive

        def receive_one(seconds: float) -> list[dict[str, Any]]:
            come.extend([] if come else receive(seconds))
            return [come.pop(0)] if come else []

        monkeypatch.setattr(engine._process, "receive", receive_one)
        ask(engine, 8)
        while engine.pending:
            now += 5.0 * len(engine.collect())
    assert now == 40.0 and events == []


def test_an_engine_that_grows_is_started_anew_once_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.engine.watchdog._MEASURE_SECONDS", 0.0)
    events: list[str] = []
    with host() as engine:
        limit = measure_memory(engine._process.pid) + (128 << 20)
    watch = Watchdog(memory_limit=limit)
    once = str(tmp_path / "once")
    with host(events, faults={"image 0": "grow"}, once=once, watch=watch) as engine:
        before = engine._process.pid
        keys = ask(engine, 12)
        done = collect_all(engine)
        assert engine.room == 0
        collect_until_open(engine)
        assert engine._process.pid != before
        assert engine.room == engine.window == 32
    assert sorted(done) == sorted(keys) and not any(text.error for text in done.values())
    assert len(events) == 1 and "over the limit of" in events[0]


def test_a_limit_that_no_engine_can_keep_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.engine.watchdog._MEASURE_SECONDS", 0.0)
    with host(watch=Watchdog(memory_limit=1 << 20)) as engine:
        ask(engine, 2)
        assert len(collect_all(engine)) == 2
        with pytest.raises(UserError, match="--memory-limit 0.0 is too low for this model"):
            collect_until_open(engine)


def test_an_engine_that_ends_again_and_again_is_given_up() -> None:
    faults = {f"image {number}": "die" for number in range(40)}
    with host(faults=faults) as engine:
        ask(engine, 40)
        with pytest.raises(UserError, match="without producing a text in between"):
            collect_all(engine)


def test_an_engine_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.engine.restart.PAUSES", ())
    with pytest.raises(UserError, match="could not be started.*TypeError"):
        SupervisedEngine({"engine": "scripted", "no_such": 1}, watch=Watchdog())


def test_nothing_is_left_behind_when_its_owner_closes_it() -> None:
    with host() as engine:
        pid = engine._process.pid
        ask(engine, 3)
    assert not psutil.pid_exists(pid)


def test_signals_to_the_engine_do_not_end_it() -> None:
    """A job scheduler sends SIGTERM to every process; the owner decides."""
    with host() as engine:
        os.kill(engine._process.pid, signal.SIGTERM)
        os.kill(engine._process.pid, signal.SIGINT)
        ask(engine, 3)
        assert len(collect_all(engine)) == 3


def test_what_an_engine_starts_inherits_neither_our_pipe_nor_sigterm() -> None:
    """vLLM's own processes: a handler of theirs would drop what is in work."""
    with host() as engine:
        folder = Path(f"/proc/{engine._process.pid}")
        blocked = int((folder / "status").read_text().partition("SigBlk:")[2].split()[0], 16)
        assert all(blocked >> (number - 1) & 1 for number in (signal.SIGTERM, signal.SIGINT))
        assert (folder / "fd" / "0").readlink() == Path(os.devnull)


def test_a_run_whose_engine_dies_and_hangs_is_the_run_of_one_that_does_not(tmp_path: Path) -> None:
    names = write_images(tmp_path / "i", 60)
    poison = make_sample_id(names[30].encode())

    def run(out: str, **scripted: Any) -> Any:
        prepared = prepare_caption(
            CaptionConfig.of(
                model="any",
                engine="scripted",
                images=tmp_path / "i",
                out=tmp_path / out,
                shard_size=16,
            )
        )
        description = {"engine": "scripted", **scripted}
        events: list[str] = []
        clock = Clock(Path(scripted.get("once", tmp_path / "never")), events)
        choice = replace(
            prepared.choice,
            start=lambda _: SupervisedEngine(
                description, watch=Watchdog(silence_seconds=4, clock=clock), on_event=events.append
            ),
        )
        return run_prepared(replace(prepared, choice=choice))

    assert run("whole").ok == 60
    for fault in ("die", "hang"):
        once = str(tmp_path / fault)
        result = run(f"out-{fault}", faults={poison: fault}, once=once)
        assert result.complete and result.ok == 60 and Path(once).exists()
        assert shard_bytes(tmp_path / f"out-{fault}") == shard_bytes(tmp_path / "whole")
    result = run("poisoned", faults={poison: "die"})
    assert result.statuses == {"engine_error": 1, "ok": 59}


@pytest.mark.parametrize(
    ("own", "limits", "least"),
    [
        ("0::/", {"memory.max": "1000"}, 1000),
        ("0::/a/b", {"a/memory.max": "2000", "a/b/memory.max": "max"}, 2000),
        ("0::/a/b", {"a/memory.max": "2000", "a/b/memory.max": "1500"}, 1500),
        ("0::/host/only", {"memory.max": "1200"}, 1200),
        ("0::/../..", {"memory.max": "1200"}, 1200),
        ("4:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": "900"}, 900),
        (
            "9:cpu:/x\n4:memory:/job/step",
            {
                "memory/memory.limit_in_bytes": str(2**63 - 4096),
                "memory/job/memory.limit_in_bytes": "800",
                "memory/job/step/memory.limit_in_bytes": "900",
            },
            800,
        ),
    ],
)
def test_the_least_limit_of_a_job_s_groups_counts(
    tmp_path: Path, own: str, limits: dict[str, str], least: int
) -> None:
    for name, text in limits.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    assert find_memory(tmp_path / "mount", tmp_path / "own") == least
    whole = find_memory(tmp_path / "none", tmp_path / "own")
    assert whole == find_memory(tmp_path / "none", tmp_path / "none") > 10**6
