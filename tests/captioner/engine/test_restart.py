"""Engines that end: started anew in the background, while others do what they had."""

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from captioner.engine import restart
from captioner.engine.in_flight import InFlight
from captioner.engine.pool import EnginePool, start_engines
from captioner.engine.process import EngineProcess
from captioner.engine.protocol import Engine, Generation
from captioner.engine.supervised import SupervisedEngine
from captioner.engine.watchdog import Watchdog
from captioner.run.session import CaptionResult, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from data.errors import UserError
from data.sources.record import make_sample_id
from tests.captioner.engine.test_supervised import (
    ask,
    collect_all,
    collect_until_open,
    host,
    request,
)
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_scripted, shard_bytes
from tests.waiting import wait_until


@contextlib.contextmanager
def pool_of(count: int, events: list[str] | None = None, **scripted: Any) -> Iterator[EnginePool]:
    events = [] if events is None else events
    description = {"engine": "scripted", "window": 4, **scripted}
    engines = start_engines(
        description, [{}] * count, watch=lambda: Watchdog(), on_event=events.append
    )
    assert isinstance(engines, EnginePool)
    try:
        yield engines
    finally:
        engines.close()


def work(engine: Engine, count: int) -> dict[str, Generation]:
    """Feed as the runner does, until `count` images are done."""
    waiting, done = [f"image {number}" for number in range(count)], {}
    while len(done) < count:
        for _ in range(min(engine.room, len(waiting))):
            engine.submit(request(waiting.pop(0)))
        for generation in engine.collect():
            assert generation.key not in done
            done[generation.key] = generation
    return done


def find_children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_the_others_do_the_work_of_one_that_does_not_come_up_yet(tmp_path: Path) -> None:
    events: list[str] = []
    gate = tmp_path / "gate"
    gate.touch()
    fault = {"faults": {"image 5": "die"}, "once": str(tmp_path / "once")}
    with pool_of(2, events, start_after=str(gate), **fault) as pool:
        gate.unlink()
        done = work(pool, 100)
        assert len(done) == 100 and not any(text.error for text in done.values())
        # It is still on its way, and all the while it took nothing.
        assert [engine.is_restarting for engine in pool._engines].count(True) == 1
        assert pool.room == 4 and pool.window == 8
        gate.touch()
        while pool.room < 8:
            assert pool.collect() == []
    assert len(events) == 1 and "of 2 ended (its process ended with exit code 17)" in events[0]


def test_an_image_that_kills_every_engine_is_an_error_and_the_others_are_not() -> None:
    with pool_of(2, faults={"image 5": "die"}) as pool:
        done = work(pool, 40)
    assert [key for key, text in done.items() if text.error] == ["image 5"]
    expected = "the engine ended on this image: its process ended with exit code 17"
    assert done["image 5"].error == expected


def test_a_stop_is_heard_while_an_engine_comes_up(tmp_path: Path) -> None:
    """It would never come up: the run ends all the same, and the next one goes on."""
    names = write_images(tmp_path / "i", 20)
    poison = make_sample_id(names[10].encode())
    gate = tmp_path / "gate"
    gate.touch()
    before, stopped = find_children(), threading.Event()
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)

    def hear(line: str) -> None:
        if "restarting" in line:
            gate.unlink()
            stopped.set()

    result = run_hosted(
        tmp_path,
        {"faults": {poison: "die"}, "start_after": str(gate)},
        stop=stopped.is_set,
        on_event=hear,
    )
    assert result.interrupted and result.errors == 0
    wait_until(lambda: find_children() <= before)
    assert run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10).ok == 20
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("count", [1, 2])
def test_a_stop_is_heard_before_an_engine_is_up(tmp_path: Path, count: int) -> None:
    write_images(tmp_path / "i", 20)
    before, events = find_children(), list[str]()
    result = run_hosted(
        tmp_path,
        {"start_after": str(tmp_path / "never")},
        engines=count,
        stop=lambda: bool(events),
        on_event=events.append,
    )
    assert events and result.interrupted and result.done == 0
    wait_until(lambda: find_children() <= before)
    assert run_hosted(tmp_path, {}, engines=count).ok == 20


def run_hosted(
    folder: Path, scripted: dict[str, Any], *, engines: int = 1, **options: Any
) -> CaptionResult:
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any", engine="scripted", images=folder / "i", out=folder / "out", shard_size=10
        )
    )
    description = {"engine": "scripted", "window": 4, **scripted}
    choice = replace(
        prepared.choice,
        start=lambda say: start_engines(
            description, [{}] * engines, watch=lambda: Watchdog(), on_event=say
        ),
    )
    return run_prepared(replace(prepared, choice=choice), **options)


@pytest.mark.parametrize("count", [1, 2])
def test_an_engine_that_ends_after_a_stop_is_not_started_anew(count: int) -> None:
    events: list[str] = []
    engine = start_engines(
        {"engine": "scripted", "faults": {"image 3": "die"}, "seconds_per_step": 0.2},
        [{}] * count,
        watch=lambda: Watchdog(),
        on_event=events.append,
    )
    try:
        for number in range(24):
            engine.submit(request(f"image {number}"))
        engine.drain()
        done: dict[str, Generation] = {}
        while engine.pending:
            done |= {generation.key: generation for generation in engine.collect()}
    finally:
        engine.close()
    # No image is to blame for what was lost with it: those are done next time.
    assert len(done) == 24 and events == []
    lost = {key for key, text in done.items() if text.aborted}
    assert "image 3" in lost and all(done[key].error for key in lost)
    assert not any(text.error for key, text in done.items() if key not in lost)


def test_a_start_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "PAUSES", (0.0, 0.0, 0.0))
    refusal, events = tmp_path / "refusal", list[str]()

    def hear(line: str) -> None:
        events.append(line)
        if len(events) == 1:
            refusal.write_text("no memory is free")
        if len(events) == 3:
            refusal.unlink()

    description = {
        "engine": "scripted",
        "start_unless": str(refusal),
        "faults": {"image 4": "die"},
        "once": str(tmp_path / "once"),
    }
    engine = SupervisedEngine(description, watch=Watchdog(), on_event=hear)
    try:
        ask(engine, 12)
        done = collect_all(engine)
    finally:
        engine.close()
    assert len(done) == 12 and not any(text.error for text in done.values())
    assert len(events) == 3 and all("no memory is free" in event for event in events[1:])


def test_an_engine_that_cannot_be_started_anew_says_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "PAUSES", (0.0, 0.0))
    refusal = tmp_path / "refusal"
    with host(start_unless=str(refusal), faults={"image 9": "die"}) as engine:
        refusal.write_text("the GPU has fallen off the bus")
        ask(engine, 12)
        done: list[Generation] = []
        with pytest.raises(UserError) as caught:
            while engine.pending:
                done += engine.collect()
    # What came before image 9 is not lost with it, but for up to three that shared its step.
    assert len(done) in range(6, 10)
    for words in ("exit code 17", "3 tries", "the GPU has fallen off the bus", "same command"):
        assert words in str(caught.value)


def test_the_others_go_on_without_one_that_is_lost_and_the_last_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "PAUSES", (0.0,))
    refusal, events = tmp_path / "refusal", list[str]()
    fault = {"faults": {"image 5": "die"}, "once": str(tmp_path / "once")}
    with pool_of(2, events, start_unless=str(refusal), **fault) as pool:
        refusal.write_text("no such device")
        done = work(pool, 30)
        assert not any(text.error for text in done.values())
        while len(pool._engines) == 2:
            pool.collect()
        assert "no such device; continuing without it, with 1 of 2 engines" in events[-1]
        assert len(work(pool, 30)) == 30
        # And if nobody is left:
        os.kill(pool._engines[0]._process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="SIGKILL, as when memory runs out.*no such device"):
            work(pool, 30)


def find_engines(before: set[int]) -> list[psutil.Process]:
    """Those that were started since and live."""
    found = []
    for child in psutil.Process().children():
        # One that was killed may not be gone yet.
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.pid not in before and "captioner.engine.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_engines_killed_at_random_lose_nothing_and_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No image is to blame, though it may lie in an engine that is slow through three kills.
    monkeypatch.setattr("captioner.engine.in_flight._SUSPICIOUS", 10)
    write_images(tmp_path / "i", 90)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=10)
    before, draw, killed = find_children(), random.Random(0), list[int]()

    def kill(progress: Any) -> None:
        # At every fifteenth text one of those that are at work.
        if progress.done % 15 == 14 and progress.done < 75:
            os.kill(draw.choice(find_engines(before)).pid, signal.SIGKILL)
            killed.append(progress.done)

    result = run_hosted(tmp_path, {"seconds_per_step": 0.02}, engines=2, on_progress=kill)
    assert len(killed) == 5
    assert result.complete and result.ok == result.generated == 90
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_all_engines_are_told_to_end_before_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("begin_close", "_wait"):
        method = getattr(EngineProcess, name)

        def call(self: EngineProcess, *args: Any, name: str = name, method: Any = method) -> None:
            calls.append(name)
            method(self, *args)

        monkeypatch.setattr(EngineProcess, name, call)
    with pool_of(2):
        calls.clear()
    assert calls.index("_wait") >= 2 and calls.count("_wait") == 4


def test_engines_that_hang_at_the_end_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.engine.process._CLOSE_SECONDS", 0.5)
    before, once = find_children(), tmp_path / "once"
    with pool_of(2, faults={"image 0": "hang"}, once=str(once)) as pool:
        pool.submit(request("image 0"))
        wait_until(once.exists)
    wait_until(lambda: find_children() <= before)


@pytest.mark.parametrize("asked", ["", "1"])
def test_a_traceback_of_an_engine_is_shown_to_those_who_ask(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(restart, "PAUSES", ())
    with pytest.raises(UserError, match="could not be started in 1 tries.*TypeError: .*no_such"):
        SupervisedEngine(
            {"engine": "scripted", "no_such": 1},
            watch=Watchdog(),
            environment={"D2S_TRACEBACK": asked},
        )
    assert ("Traceback" in capfd.readouterr().err) == bool(asked)


def test_an_engine_that_is_started_anew_with_nothing_in_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on with what is left, though nothing was in flight to ask for."""
    monkeypatch.setattr("captioner.engine.watchdog._MEASURE_SECONDS", 0.0)
    write_images(tmp_path / "i", 30)
    grown: list[str] = []

    def start(say: Any) -> SupervisedEngine:
        engine = SupervisedEngine(
            {"engine": "scripted", "window": 1}, watch=Watchdog(), on_event=say
        )
        excess = iter([None, None, None, 1])
        monkeypatch.setattr(engine._watch, "bytes_too_many", lambda: next(excess, None))
        return engine

    prepared = prepare_caption(
        CaptionConfig.of(
            model="any",
            engine="scripted",
            images=tmp_path / "i",
            out=tmp_path / "out",
            shard_size=10,
        )
    )
    choice = replace(prepared.choice, start=start)
    result = run_prepared(replace(prepared, choice=choice), on_event=grown.append)
    assert result.ok == 30 and any("over the limit" in line for line in grown)


def test_an_engine_lost_while_it_is_empty_is_started_with_the_next_image() -> None:
    events: list[str] = []
    with host(events) as engine:
        os.kill(engine._process.pid, signal.SIGKILL)
        engine.submit(request("next"))
        assert collect_all(engine)["next"].error is None
        collect_until_open(engine)
    reason = "its process was killed by SIGKILL, as when memory runs out"
    assert events == [f"the engine ended ({reason}): restarting"]


def test_the_first_start_has_the_tries_of_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "PAUSES", (0.0, 0.0))
    refusal = tmp_path / "refusal"
    refusal.write_text("no memory is free")
    events: list[str] = []

    def hear(line: str) -> None:
        events.append(line)
        refusal.unlink()

    description = {"engine": "scripted", "start_unless": str(refusal)}
    engine = SupervisedEngine(description, watch=Watchdog(), on_event=hear)
    try:
        ask(engine, 3)
        assert len(collect_all(engine)) == 3
    finally:
        engine.close()
    assert len(events) == 1 and "no memory is free" in events[0]
    refusal.write_text("it has fallen off the bus")
    with pytest.raises(UserError, match="in 3 tries; .*fallen off the bus"):
        SupervisedEngine(description, watch=Watchdog())


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_during_a_start_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    before, gate = find_children(), tmp_path / "gate"

    def interrupt(ready: Any, seconds: float) -> None:
        if len(find_children() - before) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(EngineProcess, "find_ready", interrupt)
    with (
        pytest.raises(KeyboardInterrupt),
        pool_of(count, start_after=str(gate)),
    ):
        raise AssertionError("it has started")
    assert find_children() <= before


def find_killers(killers: set[int], count: int) -> tuple[list[int], int, int]:
    """Whom an engine of images that end it blames; how often it ended, and was emptied."""
    blame, guilty, ends, emptied = Counter[str](), list[int](), 0, 0
    requests = InFlight(blame)
    for number in range(count):
        requests.add(request(str(number)))
    while len(requests):
        sent = []
        while (one := requests.send_next()) is not None:
            sent.append(one.key)
        emptied += 1
        if killers.isdisjoint(map(int, sent)):
            for key in sent:
                requests.finish(key)
            continue
        ends += 1
        found = requests.count_crash()
        guilty += [int(found)] if found is not None else []
    return sorted(guilty), ends, emptied


@pytest.mark.parametrize("killers", [{0}, {383}, {200}, {7, 8}, {1, 380}, set()], ids=str)
def test_suspects_are_halved_until_one_is_left(killers: set[int]) -> None:
    guilty, ends, emptied = find_killers(killers, 384)
    assert guilty == sorted(killers)
    # Twice before there is a suspicion; then nine halves of 384, for each.
    assert ends <= 2 + 10 * len(killers) and emptied <= 2 + 20 * len(killers) + 1
