"""Several engines as one, and how the devices of a machine are shared among them."""

from pathlib import Path
from typing import Any

import pytest

from captioner.engine import pool
from captioner.engine.config import EngineConfig
from captioner.engine.pool import EnginePool, share_devices, start_engines
from captioner.engine.protocol import Engine, Generation
from captioner.engine.supervised import SupervisedEngine
from captioner.engine.watchdog import Watchdog
from captioner.llava.weights import Weights
from data.errors import UserError
from tests.captioner.engine.test_supervised import request

WEIGHTS = Weights("m", Path("nowhere"), "r")


def start(count: int, events: list[str], **scripted: Any) -> Engine:
    description = {"engine": "scripted", "window": 4, **scripted}
    return start_engines(
        description, [{}] * count, watch=lambda: Watchdog(), on_event=events.append
    )


def collect_all(engine: Engine) -> dict[str, Generation]:
    done: dict[str, Generation] = {}
    while engine.pending:
        done |= {generation.key: generation for generation in engine.collect()}
    return done


def test_the_work_is_shared_and_the_texts_are_the_same() -> None:
    events: list[str] = []
    one, three = start(1, events), start(3, events)
    try:
        assert isinstance(one, SupervisedEngine) and isinstance(three, EnginePool)
        assert three.window == 3 * one.window == 12
        assert three.describe() == {**one.describe(), "engines": 3}
        for number in range(12):
            one.submit(request(str(number)))
            three.submit(request(str(number)))
        assert [engine.pending for engine in three._engines] == [4, 4, 4]
        assert collect_all(three) == collect_all(one)
    finally:
        one.close()
        three.close()
    assert events == []


def test_one_that_dies_does_not_concern_the_others(tmp_path: Path) -> None:
    events: list[str] = []
    once = str(tmp_path / "once")
    pool = start(2, events, faults={"5": "die"}, once=once)
    try:
        for number in range(8):
            pool.submit(request(str(number)))
        done = collect_all(pool)
    finally:
        pool.close()
    assert sorted(done) == [str(number) for number in range(8)]
    assert not any(generation.error for generation in done.values())
    assert len(events) == 1


def test_if_none_starts_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.engine.restart.PAUSES", ())
    with pytest.raises(UserError, match="could not be started"):
        start(2, [], no_such=1)


def begin(**scripted: Any) -> SupervisedEngine:
    return SupervisedEngine({"engine": "scripted", **scripted}, watch=Watchdog(), wait=False)


def test_one_that_does_not_start_does_not_concern_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioner.engine.restart.PAUSES", ())
    refusal, events = tmp_path / "refusal", list[str]()
    refusal.write_text("an ECC error")
    engines = [begin(window=4, start_unless=str(refusal)), begin(window=4)]
    pool = EnginePool(engines, on_event=events.append)
    try:
        assert (pool.window, pool.describe()["engines"]) == (4, 1)
        for number in range(4):
            pool.submit(request(str(number)))
        assert len(collect_all(pool)) == 4
    finally:
        pool.close()
    assert len(events) == 1 and "an ECC error" in events[0] and "1 of 2" in events[0]


def test_what_no_start_can_help_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(wait: float) -> bool:
        raise UserError("a wrong setting")

    engines = [begin(), begin()]
    monkeypatch.setattr(engines[1], "is_up", refuse)
    with pytest.raises(UserError, match="a wrong setting"):
        EnginePool(engines)
    assert not any(engine.is_restarting for engine in engines)


def test_the_memory_limit_is_shared() -> None:
    pool = start_engines(
        {"engine": "scripted"},
        [{}, {}],
        watch=lambda: Watchdog(memory_limit=1000),
        on_event=lambda _: None,
    )
    try:
        assert isinstance(pool, EnginePool)
        assert [engine._watch.memory_limit for engine in pool._engines] == [500, 500]
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("devices", "engines", "size", "expected"),
    [
        (["0", "1", "2", "3"], None, 1, ["0", "1", "2", "3"]),
        (["0", "1", "2", "3"], None, 2, ["0,1", "2,3"]),
        (["0", "1", "2"], None, 2, ["0,1"]),
        (["GPU-a", "GPU-b"], 1, 1, ["GPU-a"]),
    ],
)
def test_gpus(
    monkeypatch: pytest.MonkeyPatch,
    devices: list[str],
    engines: int | None,
    size: int,
    expected: list[str],
) -> None:
    monkeypatch.setattr(pool, "list_devices", lambda: devices)
    found = share_devices(WEIGHTS, EngineConfig("m", engines=engines, tensor_parallel_size=size))
    assert found == [{"CUDA_VISIBLE_DEVICES": group} for group in expected]


@pytest.mark.parametrize(("engines", "size"), [(3, 1), (2, 2), (None, 4)])
def test_more_gpus_than_there_are(
    monkeypatch: pytest.MonkeyPatch, engines: int | None, size: int
) -> None:
    monkeypatch.setattr(pool, "list_devices", lambda: ["0", "1"])
    with pytest.raises(UserError, match="GPUs, but there are 2"):
        share_devices(WEIGHTS, EngineConfig("m", engines=engines, tensor_parallel_size=size))


def test_on_a_cpu_a_small_model_gets_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "list_devices", lambda: [])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    for small, count in ((True, 3), (False, 1)):
        monkeypatch.setattr(pool, "is_small", lambda _, small=small: small)
        assert share_devices(WEIGHTS, EngineConfig("m")) == [{}] * count
    assert share_devices(WEIGHTS, EngineConfig("m", engines=2, tensor_parallel_size=1)) == [{}, {}]
    with pytest.raises(UserError, match="needs a GPU, but there is none"):
        share_devices(WEIGHTS, EngineConfig("m", engines=None, tensor_parallel_size=2))


def test_a_pool_whose_engines_are_all_being_emptied_takes_one_more() -> None:
    pool = start(2, [])
    try:
        assert isinstance(pool, EnginePool)
        for number in range(4):
            pool.submit(request(str(number)))
        for engine in pool._engines:
            engine._emptying = True
        assert pool.room == 0
        pool.submit(request("late"))
        assert pool.pending == 5
        for engine in pool._engines:
            engine._emptying = False
        assert len(collect_all(pool)) == 5
    finally:
        pool.close()
