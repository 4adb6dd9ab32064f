"""`d2s verify`: a whole run passes; each way of not being one is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.dense.receipts import append_receipt, read_receipts
from data.dense.run import read_run
from data.dense.shards import make_receipt, name_shard
from pipelines import cli
from tests.captioner.images import write_images
from tests.captioner.run.test_session import run_scripted, shard_bytes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three shards, one error row."""
    write_images(tmp_path / "i", 25)
    (tmp_path / "i" / "0003.png").write_bytes(b"text")
    run_scripted(tmp_path / "i", tmp_path / "out", shard_size=10)
    return tmp_path / "out"


def shard(run: Path, index: int = 1) -> Path:
    return run / name_shard(index, 3)


def rewrite(run: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard and its receipt, so that only the rows tell."""
    table = change(pq.read_table(shard(run), partitioning=None))
    pq.write_table(table, shard(run))
    append_receipt(run, make_receipt(shard(run), index=1))


def set_first(table: pa.Table, column: str, value: object) -> pa.Table:
    position = table.schema.get_field_index(column)
    values = [value, *table.column(column).to_pylist()[1:]]
    field = table.schema.field(position)
    return table.set_column(position, field, pa.array(values, field.type))


def test_a_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    for words in (f"{run}: verified", "25 of 25", "3 shards", "1 decode_error", "24 ok"):
        assert words in said
    assert cli.run(["verify", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["statuses"] == {"decode_error": 1, "ok": 24}


def flip_a_byte(run: Path) -> None:
    content = bytearray(shard(run).read_bytes())
    content[len(content) // 2] ^= 1
    shard(run).write_bytes(content)


def forget_receipt(run: Path) -> None:
    receipts = [r for r in read_receipts(run).values() if r.index != 1]
    (run / "receipts.jsonl").unlink()
    for receipt in receipts:
        append_receipt(run, receipt)


def say_unfinished(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"complete": False}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda run: shard(run).unlink(), "train-00001-of-00003.parquet is missing"),
    "changed": (flip_a_byte, "was changed: its SHA-256 is not that of its receipt"),
    "no receipt": (forget_receipt, "train-00001-of-00003.parquet has no receipt"),
    "lost row": (
        lambda run: rewrite(run, lambda table: table.slice(1)),
        "its 9 rows differ from the 10 rows of the plan, first in row 0",
    ),
    "swapped rows": (
        lambda run: rewrite(run, lambda table: table.take([0, 2, 1, *range(3, 10)])),
        "first in row 1",
    ),
    "doubled row": (
        lambda run: rewrite(run, lambda table: table.take([*range(10), 9])),
        "its 11 rows differ from the 10 rows of the plan, first in row 10",
    ),
    "null caption": (
        lambda run: rewrite(run, lambda table: set_first(table, "caption", None)),
        "1 rows with status ok have no caption",
    ),
    "silent error": (
        lambda run: rewrite(run, lambda table: set_first(table, "status", "engine_error")),
        "1 error rows have no error message",
    ),
    "other run": (
        lambda run: rewrite(run, lambda table: set_first(table, "run_id", "x")),
        "it contains rows of another run",
    ),
    "other columns": (
        lambda run: rewrite(run, lambda table: table.drop_columns(["flags"])),
        "its columns differ from those of this version",
    ),
    "a stranger": (
        lambda run: (run / "train-00000-of-00009.parquet").write_bytes(b""),
        "train-00000-of-00009.parquet is not a shard of this run",
    ),
    "unfinished": (say_unfinished, "the run is not complete"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = BROKEN[name]
    spoil(run)
    assert cli.run(["verify", str(run)]) == 1
    said = capsys.readouterr().out
    assert message in said and "NOT verified" in said


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", str(tmp_path)]) == 1
    assert "is not the folder of a captioning run" in capsys.readouterr().err


def test_other_files_beside_the_shards_are_no_problem(run: Path) -> None:
    """Of other commands, of trials, and what file managers leave."""
    table = pa.table({"id": ["a"], "embedding": [[1.0]]})
    for name in ("emb.parquet", "ranks.parquet", "scores-first-3.parquet"):
        pq.write_table(table, run / name)
    for name in ("._train-00000-of-00003.parquet", "._run.json", ".DS_Store", "._extra.parquet"):
        (run / name).write_bytes(b"\0\5\x16\7")
    assert cli.run(["verify", str(run)]) == 0
    rerun(run)
    assert cli.run(["verify", str(run)]) == 0


def rerun(run: Path) -> None:
    assert run_scripted(run.parent / "i", run, shard_size=10).complete


LOST: dict[str, Callable[[Path], object]] = {
    "an empty run.json": lambda run: (run / "run.json").write_bytes(b""),
    "half of run.json": lambda run: halve(run / "run.json"),
    "no run.json": lambda run: (run / "run.json").unlink(),
    "a run.json of zeros": lambda run: (run / "run.json").write_bytes(b"\0" * 900),
    "empty receipts": lambda run: (run / "receipts.jsonl").write_bytes(b""),
    "half of the receipts": lambda run: halve(run / "receipts.jsonl"),
    "no receipts": lambda run: (run / "receipts.jsonl").unlink(),
    "both": lambda run: [(run / n).write_bytes(b"") for n in ("run.json", "receipts.jsonl")],
}


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", LOST)
def test_records_are_rebuilt_from_what_is_whole(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_run(run)
    rows = {path: path.read_bytes() for path in run.glob("*.parquet")}
    receipts = (run / "receipts.jsonl").read_bytes()
    LOST[name](run)
    assert cli.run(["verify", str(run)]) == 1
    said = capsys.readouterr()
    assert "--repair" in said.err or "receipt" in said.out
    assert cli.run(["verify", "--repair", str(run)]) == 0
    after = read_run(run)
    told = ("run_id", "settings", "counts", "statuses", "complete", "images", "source")
    assert {key: after[key] for key in told} == {key: before[key] for key in told}
    assert [maker["rows"] for maker in after["made_by"].values()] == [25]
    assert (run / "receipts.jsonl").read_bytes() == receipts
    rerun(run)
    assert {path: path.read_bytes() for path in rows} == rows


@pytest.mark.parametrize("repair", [False, True])
def test_a_shard_that_was_edited_is_named(
    run: Path, repair: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can tell it from one whose receipt a kill prevented."""
    told: list[str] = []
    run_scripted(run.parent / "i", run, shard_size=10, on_event=told.append)
    assert not [line for line in told if "receipt" in line]
    pq.write_table(set_first(pq.read_table(shard(run)), "caption", "mine"), shard(run))
    if repair:
        assert cli.run(["verify", "--repair", str(run)]) == 0
        told = capsys.readouterr().err.splitlines()
    else:
        run_scripted(run.parent / "i", run, shard_size=10, on_event=told.append)
    (line,) = (line for line in told if "receipt" in line)
    assert shard(run).name in line


def test_an_unfinished_run_is_repaired_and_goes_on(tmp_path: Path) -> None:
    write_images(tmp_path / "i", 60)
    run_scripted(tmp_path / "i", tmp_path / "whole", shard_size=25)
    seen: list[int] = []
    stopped = run_scripted(
        tmp_path / "i",
        tmp_path / "out",
        shard_size=25,
        stop=lambda: len(seen) > 8,
        on_progress=lambda progress: seen.append(progress.done),
    )
    (tmp_path / "out" / "run.json").write_bytes(b"")
    assert cli.run(["verify", "--repair", str(tmp_path / "out")]) == 1
    result = run_scripted(tmp_path / "i", tmp_path / "out", shard_size=25)
    assert result.complete and result.generated == 60 - stopped.done
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "whole")


def test_a_plan_that_was_lost_is_made_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = run / "plan.parquet"
    content = plan.read_bytes()
    plan.write_bytes(b"")
    assert cli.run(["verify", str(run)]) == 1
    assert "delete this file and run the same" in capsys.readouterr().err
    plan.unlink()
    rerun(run)
    assert plan.read_bytes() == content
    assert cli.run(["verify", str(run)]) == 0


def test_what_a_run_consists_of_is_never_exported_over(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for name in ("run.json", "plan.parquet", "receipts.jsonl", shard(run).name):
        out = ["--out", str(run / name), "--overwrite"]
        assert cli.run(["export", str(run), "--format", "jsonl", *out]) == 1
        assert "use another" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
