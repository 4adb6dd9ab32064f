"""Texts with faults: asked for again, the better one kept; cut back to a sentence; recorded."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from captioner.engine.protocol import Generation, Request
from captioner.engine.scripted import ScriptedEngine
from captioner.llava.sampling import derive_seed
from captioner.run.session import CaptionResult, run_prepared
from captioner.settings.config import CaptionConfig
from captioner.settings.prepare import prepare_caption
from captioner.settings.text_policy import TextPolicy
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from tests.captioner.images import write_images

GOOD = "A red kettle stands on a table. A green parrot sits beside it. The wall behind is white."
LOOP = " ".join(["A red kettle stands on a wooden table."] * 8)
CUT = "A red kettle stands on a table. A green parrot sits beside it. The wall behi"


class Writer(ScriptedEngine):
    """Says what `write` makes of a request; remembers what it was asked."""

    def __init__(self, write: Callable[[Request], tuple[str, str] | None]) -> None:
        super().__init__(window=5)
        self._write = write
        self.asked: list[Request] = []

    def submit(self, request: Request) -> None:
        assert request.image is not None
        self.asked.append(request)
        super().submit(request)

    def collect(self) -> list[Generation]:
        done = []
        while self._queue:
            request = self._queue.popleft()
            written = self._write(request)
            if written is None:
                done.append(Generation(request.key, error="scripted to fail"))
            else:
                text, reason = written
                done.append(Generation(request.key, text, reason, 9, len(text.split())))
        return done


def run(tmp_path: Path, engine: Writer, **options: Any) -> tuple[CaptionResult, list[Any]]:
    if not (tmp_path / "i").exists():
        write_images(tmp_path / "i", 12)
    prepared = prepare_caption(
        CaptionConfig.of(
            model="any", engine="scripted", images=tmp_path / "i", out=tmp_path / "out", **options
        )
    )
    choice = replace(prepared.choice, start=lambda _: engine)
    result = run_prepared(replace(prepared, choice=choice))
    return result, read_rows(tmp_path / "out").to_pylist()


def test_by_default_a_text_is_kept_as_it_came(tmp_path: Path) -> None:
    engine = Writer(lambda request: (LOOP, "length"))
    _, rows = run(tmp_path, engine)
    assert len(engine.asked) == 12
    assert {row["caption"] for row in rows} == {LOOP}
    assert {(row["attempt"], row["trimmed"]) for row in rows} == {(1, False)}
    assert {"truncated", "loop"} <= set(rows[0]["flags"])


def test_a_flagged_text_is_asked_for_once_more(tmp_path: Path) -> None:
    def write(request: Request) -> tuple[str, str]:
        return (GOOD, "stop") if request.repetition_penalty == 1.2 else (LOOP, "length")

    engine = Writer(write)
    options = {"retry_flagged": ["loop"], "repetition_penalty": 1.2, "seed": 3}
    _, rows = run(tmp_path, engine, **options)
    assert len(engine.asked) == 24
    assert {row["caption"] for row in rows} == {GOOD} and {row["attempt"] for row in rows} == {2}
    first, second = rows[0]["sample_id"], [r for r in engine.asked if r.repetition_penalty == 1.2]
    assert rows[0]["seed"] == derive_seed(3, first, attempt=2)
    seeds = {request.key: request.seed for request in second}
    assert seeds == {row["sample_id"]: row["seed"] for row in rows}
    assert seeds[first] != derive_seed(3, first)


def test_the_better_of_two_is_kept_and_of_equals_the_first(tmp_path: Path) -> None:
    def write(request: Request) -> tuple[str, str]:
        return (LOOP, "length") if request.repetition_penalty > 1 else (CUT, "length")

    engine = Writer(write)
    _, rows = run(tmp_path, engine, retry_flagged=["loop", "truncated"])
    assert {row["caption"] for row in rows} == {CUT} and {row["attempt"] for row in rows} == {1}


def test_a_second_try_that_fails_leaves_the_first(tmp_path: Path) -> None:
    def write(request: Request) -> tuple[str, str] | None:
        return None if request.repetition_penalty > 1 else (LOOP, "stop")

    result, rows = run(tmp_path, Writer(write), retry_flagged=["loop"])
    assert result.errors == 0 and {row["attempt"] for row in rows} == {1}
    assert {row["caption"] for row in rows} == {LOOP}


def test_only_the_flags_that_were_named(tmp_path: Path) -> None:
    engine = Writer(lambda request: (CUT, "length"))
    run(tmp_path, engine, retry_flagged=["loop", "refusal"])
    assert len(engine.asked) == 12


def test_a_text_that_stops_midway_is_cut_back(tmp_path: Path) -> None:
    numbers = iter(range(12))

    def write(_: Request) -> tuple[str, str]:
        return (CUT, "length") if next(numbers) % 2 else (GOOD, "stop")

    _, rows = run(tmp_path, Writer(write), trim=True)
    cut = [row for row in rows if row["trimmed"]]
    assert len(cut) == 6
    whole = "A red kettle stands on a table. A green parrot sits beside it."
    assert {row["caption"] for row in cut} == {whole}
    # What it was stays to be seen.
    assert all("truncated" in row["flags"] and row["finish_reason"] == "length" for row in cut)
    assert {row["caption"] for row in rows if not row["trimmed"]} == {GOOD}


def test_a_text_that_was_cut_back_keeps_its_flag(tmp_path: Path) -> None:
    """Also if the model stopped by itself, and after the shard was written again."""
    _, rows = run(tmp_path, Writer(lambda _: (CUT, "stop")), trim=True)
    assert {(row["finish_reason"], row["trimmed"]) for row in rows} == {("stop", True)}
    assert all("truncated" in row["flags"] for row in rows)
    shutil.rmtree(tmp_path / "out")
    broken = tmp_path / "i" / "0003.png"
    content = broken.read_bytes()
    broken.write_bytes(b"text")
    run(tmp_path, Writer(lambda _: (CUT, "stop")), trim=True)
    broken.write_bytes(content)
    _, again = run(tmp_path, Writer(lambda _: (CUT, "stop")), trim=True, retry_errors=True)
    assert [row["flags"] for row in again] == [row["flags"] for row in rows]
    shutil.rmtree(tmp_path / "out")
    _, rows = run(tmp_path, Writer(lambda _: (f"<think>Hm</think>{GOOD}", "stop")), trim=True)
    assert all(row["trimmed"] and "truncated" not in row["flags"] for row in rows)


def test_the_policy_is_part_of_the_run(tmp_path: Path) -> None:
    run(tmp_path, Writer(lambda _: (GOOD, "stop")))
    with pytest.raises(UserError, match="texts.trim: not set -> True"):
        run(tmp_path, Writer(lambda _: (GOOD, "stop")), trim=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"retry_flags": ("loop", "lopp")}, "not lopp"),
        ({"retry_flags": ("duplicate",)}, "not duplicate"),
        ({"retry_flags": ("loop",), "repetition_penalty": 3.0}, "must be in [1, 2]"),
        ({"repetition_penalty": 1.5}, "add --retry-flagged"),
    ],
)
def test_policies_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        TextPolicy(**arguments)


def test_the_same_text_at_many_images_is_flagged_over_shards_and_once(tmp_path: Path) -> None:
    numbers = iter(range(12))

    def write(_: Request) -> tuple[str, str]:
        number = next(numbers)
        return (GOOD if number in (1, 5, 9, 11) else f"{GOOD} And a box {number}.", "stop")

    result, rows = run(tmp_path, Writer(write), shard_size=4)
    marked = [row["caption"] == GOOD for row in rows]
    assert sum(marked) == 4
    assert [row["flags"] == ["duplicate"] for row in rows] == marked
    assert result.flags == {"duplicate": 4} and result.complete
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
    again, _ = run(tmp_path, Writer(write), shard_size=4)
    assert again.generated == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}


def test_a_stop_keeps_no_text_whose_second_try_is_due(tmp_path: Path) -> None:
    """Else the rows would tell when the run was stopped."""
    stopped: list[int] = []

    def write(request: Request) -> tuple[str, str]:
        stopped.append(1)
        return (GOOD, "stop") if request.repetition_penalty > 1 else (LOOP, "length")

    write_images(tmp_path / "i", 12)
    options = {"model": "any", "engine": "scripted", "images": tmp_path / "i"}
    options |= {"out": tmp_path / "out", "retry_flagged": ["loop"]}
    prepared = prepare_caption(CaptionConfig.of(**options))
    choice = replace(prepared.choice, start=lambda _: Writer(write))
    first = run_prepared(replace(prepared, choice=choice), stop=lambda: len(stopped) > 0)
    assert first.interrupted and first.generated == 0
    _, rows = run(tmp_path, Writer(write), retry_flagged=["loop"])
    assert {row["attempt"] for row in rows} == {2} and {row["caption"] for row in rows} == {GOOD}


def test_an_error_in_any_letters_is_a_row_of_its_own(tmp_path: Path) -> None:
    numbers = count()

    class Failing(Writer):
        def collect(self) -> list[Generation]:
            # However many come at a time, all but the first fail.
            return [
                replace(one, error="no \ud83d\x1b") if next(numbers) else one
                for one in super().collect()
            ]

    result, rows = run(tmp_path, Failing(lambda request: (GOOD, "stop")))
    assert result.complete and result.errors
    assert {row["error"] for row in rows} == {None, "no \ufffd\ufffd"}


def test_without_a_seed_nothing_is_said_of_one(tmp_path: Path) -> None:
    engine = Writer(lambda request: (GOOD, "stop"))
    _, rows = run(tmp_path, engine, seed=None)
    assert {request.seed for request in engine.asked} == {None} == {row["seed"] for row in rows}
    assert read_run(tmp_path / "out")["settings"]["sampling"]["seed"] is None
    with pytest.raises(UserError, match="sampling.seed"):
        run(tmp_path, engine)
