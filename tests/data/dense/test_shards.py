"""Shards: whole or absent, the same bytes for the same rows, and checked when they are read."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from data.dense.receipts import Receipt, append_receipt, read_receipts, rewrite_receipts
from data.dense.run import read_run
from data.dense.schema import CAPTION_SCHEMA
from data.dense.shards import (
    find_shard_problem,
    make_receipt,
    name_shard,
    read_rows,
    write_shard,
)
from data.errors import UserError
from data.files import atomic
from data.files.atomic import replace_whole

METADATA = {"d2s.run_id": "run"}


def make_table(names: list[str]) -> pa.Table:
    rows = [
        {
            "sample_id": f"id-{name}",
            "file_name": name,
            "status": "ok" if "bad" not in name else "decode_error",
            "caption": None if "bad" in name else f"A text about {name}.",
            "run_id": "run",
            "engine": "scripted",
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA)


def make_run(folder: Path, shards: list[list[str]], *, complete: bool = True) -> None:
    for index, names in enumerate(shards):
        path = folder / name_shard(index, len(shards))
        write_shard(path, make_table(names), metadata=METADATA)
        append_receipt(folder, make_receipt(path, index=index))
    (folder / "run.json").write_text(json.dumps({"complete": complete, "shards": len(shards)}))


def test_names_are_those_of_the_hub() -> None:
    assert name_shard(12, 57) == "train-00012-of-00057.parquet"


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    table = make_table([f"{number}.jpg" for number in range(50)])
    for name in ("one", "two"):
        write_shard(tmp_path / name, table, metadata=METADATA)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "two"]


def test_how_a_shard_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write_shard(path, make_table(["a.jpg", "bad.jpg"]), metadata=METADATA)
    group = pq.ParquetFile(path).metadata.row_group(0)
    column = group.column(CAPTION_SCHEMA.names.index("caption"))
    assert column.compression == "ZSTD"
    assert column.has_column_index and column.has_offset_index
    schema = pq.read_schema(path)
    assert schema.equals(CAPTION_SCHEMA)
    assert schema.metadata[b"d2s.run_id"] == b"run"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    path = tmp_path / "shard"
    with pytest.raises(UserError, match=r"disk is full.*shard.*run the same command again"):
        write_shard(path, make_table(["a.jpg"]), metadata=METADATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_in_the_words_of_safetensors(tmp_path: Path, code: int) -> None:
    said = f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})"
    expected = SafetensorError if code == errno.EIO else UserError
    with pytest.raises(expected), replace_whole(tmp_path / "model.safetensors") as temporary:
        temporary.write_bytes(b"half")
        raise SafetensorError(said)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_on_a_disk_that_is_truly_full(tmp_path: Path) -> None:
    """That safetensors still says it in those words."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        path = disk / "model.safetensors"
        with (
            pytest.raises(UserError, match=r"disk is full.*model\.safetensors"),
            replace_whole(path) as temporary,
        ):
            save_file({"weights": np.zeros(100_000)}, temporary)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_another_disk_error_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="input/output error"):
        write_shard(tmp_path / "shard", make_table(["a.jpg"]), metadata=METADATA)
    assert list(tmp_path.iterdir()) == []


def test_find_shard_problem(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write_shard(path, make_table(["a.jpg", "b.jpg"]), metadata=METADATA)
    good = {"sample_ids": ["id-a.jpg", "id-b.jpg"], "metadata": METADATA}
    assert find_shard_problem(path, **good) is None
    swapped = find_shard_problem(path, **{**good, "sample_ids": ["id-b.jpg", "id-a.jpg"]})
    assert swapped and "not the 2 rows of the plan" in swapped
    other = find_shard_problem(path, **{**good, "metadata": {"d2s.run_id": "else"}})
    assert other and "other settings" in other
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    damaged = find_shard_problem(path, **good)
    assert damaged and "cannot be read" in damaged
    path.write_bytes(content[: len(content) // 2])
    cut = find_shard_problem(path, **good)
    assert cut and "cannot be read" in cut


def test_receipts_survive_a_torn_line(tmp_path: Path) -> None:
    receipts = [Receipt(f"s{index}", index, 5, index, 100, "0" * 64) for index in range(3)]
    append_receipt(tmp_path, receipts[0])
    path = tmp_path / "receipts.jsonl"
    path.write_bytes(path.read_bytes() + b'{"shard": "s1", "ind')
    append_receipt(tmp_path, receipts[2])
    assert read_receipts(tmp_path) == {0: receipts[0], 2: receipts[2]}
    rewrite_receipts(tmp_path, [receipts[2], receipts[1], receipts[0]])
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_read_captions_in_plan_order(tmp_path: Path) -> None:
    make_run(tmp_path, [["z.jpg", "bad.jpg"], ["a.jpg"]])
    table = read_rows(tmp_path)
    assert table.column("file_name").to_pylist() == ["z.jpg", "bad.jpg", "a.jpg"]
    assert table.schema.equals(CAPTION_SCHEMA)
    few = read_rows(tmp_path, columns=["caption", "status"])
    assert few.column_names == ["caption", "status"]
    assert few.column("status").to_pylist() == ["ok", "decode_error", "ok"]


def test_read_captions_refuses_what_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a captioning run"):
        read_rows(tmp_path)
    make_run(tmp_path, [["a.jpg"], ["b.jpg"]], complete=False)
    with pytest.raises(UserError, match="not complete"):
        read_rows(tmp_path)
    assert read_rows(tmp_path, allow_incomplete=True).num_rows == 2
    (tmp_path / "run.json").write_text('{"complete": true, "shards": 3}')
    with pytest.raises(UserError, match="receipts for 2 of 3 shards"):
        read_rows(tmp_path)
    (tmp_path / "run.json").write_text('{"complete": true, "shards": 2}')
    with pytest.raises(UserError, match="no such column.*colour"):
        read_rows(tmp_path, columns=["colour"])
    second = tmp_path / name_shard(1, 2)
    second.write_bytes(second.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"00001-of-00002.*has changed since it was written"):
        read_rows(tmp_path)
    second.unlink()
    with pytest.raises(UserError, match=r"00001-of-00002.*missing"):
        read_rows(tmp_path)


def test_an_unfinished_run_without_shards_reads_as_no_rows(tmp_path: Path) -> None:
    make_run(tmp_path, [], complete=False)
    assert read_rows(tmp_path, allow_incomplete=True).schema.equals(CAPTION_SCHEMA)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_read_run_says_that_the_file_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        read_run(tmp_path)
