"""Files of requests keep their limits; an index of answers is small."""

import errno
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from captioner.engine.batch.answers import AnswerIndex
from captioner.engine.batch.folder import RequestFiles, read_request_ids
from captioner.engine.batch.request_id import RequestId
from data.errors import UserError
from tests.captioner.batch_service import read_requests, write_answers


def test_files_keep_their_limits(tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    files = RequestFiles(
        tmp_path / "r",
        run="0" * 16,
        first=7,
        head={"alone": {"a": 1}, "blank": {"a": 2}},
        on_file=lambda path, count: said.append((path.name, count)),
        limits=(6, 1200),
    )
    for number in range(7):
        files.add(f"{number:020d}", "0" * 8, {"n": number})
    for number in range(7, 10):
        files.add(f"{number:020d}", "0" * 8, {"n": number, "long": "x" * 500})
    files.finish()
    # Four by their number, three by the bytes of the fourth, one of the long ones each.
    assert [count for _, count in said] == [4, 3, 1, 1, 1]
    assert [name for name, _ in said] == [f"requests-{n:05d}.jsonl" for n in range(7, 12)]
    for name, count in said:
        content = (tmp_path / "r" / name).read_bytes()
        lines = [json.loads(line) for line in content.splitlines()]
        assert len(content) <= 1200 and 3 <= len(lines) == count + 2 <= 6
        asked = [RequestId.parse(line["custom_id"]) for line in lines]
        assert [one.text for one in asked[:2] if one] == ["alone", "blank"]
        assert {one.number for one in asked if one} == {int(name[9:14])}
    texts = [line["body"]["n"] for line in read_requests(tmp_path / "r") if "n" in line["body"]]
    assert texts == list(range(10))


@pytest.mark.parametrize("links", [True, False])
def test_two_runs_in_one_folder_do_not_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also on file systems without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    said: dict[str, list[str]] = {"a": [], "b": []}
    # Both begin when the folder is empty.
    runs = {
        run: RequestFiles(
            tmp_path,
            run=run * 16,
            first=1,
            head={"alone": {}},
            on_file=lambda path, count, run=run: said[run].append(path.name),
            limits=(3, 10_000),
        )
        for run in said
    }
    for number in range(4):
        for files in runs.values():
            files.add(f"{number:020d}", "0" * 8, {"n": number})
    for files in runs.values():
        files.finish()
    names = sorted([*said["a"], *said["b"]])
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len({*names}) == 4
    for run, written in said.items():
        ids = {name: list(read_request_ids(tmp_path / name)) for name in written}
        assert [one.text for one in ids[written[1]]] == ["alone", f"{2:020d}", f"{3:020d}"]
        for name, asked in ids.items():
            assert {(one.run, one.number) for one in asked} == {(run * 16, int(name[9:14]))}


def refuse(*_: object) -> None:
    raise OSError(errno.EPERM, "not permitted")


def test_a_file_that_cannot_be_named_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RequestFiles(
        tmp_path, run="a" * 16, first=1, head={}, on_file=lambda *_: None, limits=(3, 10_000)
    )
    files.add(f"{0:020d}", "0" * 8, {"n": 0})
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(OSError, match="not permitted"):
        files.finish()
    assert not list(tmp_path.iterdir())


def test_answers_are_not_held_in_memory(tmp_path: Path) -> None:
    ids = [RequestId("a" * 16, 1, f"{number:020x}", "0" * 8) for number in range(4000)]
    body = {"choices": [{"message": {"content": "x" * 4000}, "finish_reason": "stop"}]}
    response = {"status_code": 200, "body": body}
    path = tmp_path / "a.jsonl"
    write_answers(path, ({"custom_id": str(one), "response": response} for one in ids), shuffle=1)
    assert path.stat().st_size > 15 << 20
    tracemalloc.start()
    index = AnswerIndex([path], "a" * 16, on_event=lambda _: None)
    (place,) = index.find(ids[1234].text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.read(place)["custom_id"] == str(ids[1234])
    assert index.summary.texts == 4000 and peak < 4 << 20
    # A full disk, as SQLite reports it.
    index._base.execute("PRAGMA max_page_count=1")
    with pytest.raises(UserError, match="TMPDIR"):
        index.add_waiting(ids)
    index.close()
    path.write_text("\n")
    with pytest.raises(UserError, match="changed"):
        AnswerIndex([], "a" * 16, on_event=lambda _: None).read(place)
