"""Whole runs at servers: rows in order, what failed told, tried anew, and taken up again."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.run.session import CaptionResult, caption
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from tests.captioner.chat_server import ChatServer, Reply
from tests.waiting import wait_until

COUNT = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Flat colours, which stay what they are when an image is sized."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(1, COUNT + 1):
        Image.new("RGB", (30, 24), (0, 0, number)).save(folder / f"{number:02d} '\"<b>.png")
    return folder


def run(servers: list[ChatServer], images: Path, **options: Any) -> CaptionResult:
    settings = {"model": "tiny", "out": images.parent / "out", "aspect": "squash", "shard_size": 5}
    urls = [server.url for server in servers]
    return caption(images=images, servers=urls, **{**settings, **options})


def read_back(images: Path) -> list[dict[str, Any]]:
    return read_rows(images.parent / "out").to_pylist()


def test_rows_in_order_and_errors_tried_anew(images: Path) -> None:
    refuse = lambda image, times: Reply(status=400 if image == 3 else 200)  # noqa: E731
    with ChatServer(refuse) as one, ChatServer(refuse) as two:
        result = run([one, two], images)
        assert result.complete and result.statuses == {"engine_error": 1, "ok": COUNT - 1}
        rows = read_back(images)
        assert [row["caption"] for row in rows] == [
            None if number == 3 else f"Image {number}." for number in range(1, COUNT + 1)
        ]
        assert rows[2]["error"].startswith("not accepted: HTTP 400")
        assert {row["engine"] for row in rows} == {"server"}
        # Again: nothing is asked for; then only what had failed.
        run([one, two], images)
        assert sorted(one.asked + two.asked) == list(range(1, COUNT + 1))
        one.script = two.script = lambda image, times: Reply()
        assert run([one, two], images, retry_errors=True).statuses == {"ok": COUNT}
        assert sorted(one.asked + two.asked) == sorted([*range(1, COUNT + 1), 3])
    assert read_back(images)[2]["caption"] == "Image 3."
    record = read_run(images.parent / "out")
    assert record["model"] == "tiny"
    assert [server["id"] for server in record["engine"]["servers"]] == ["tiny", "tiny"]


def test_a_run_goes_on_at_another_server_after_the_first_let_nobody_in(images: Path) -> None:
    # Only once a shard is written.
    written = lambda: wait_until(lambda: list((images.parent / "out").glob("train-*")))  # noqa: E731
    refusal = Reply(status=401, before=written)
    shut = lambda image, times: refusal if image > 7 else Reply()  # noqa: E731
    with ChatServer(shut) as first, pytest.raises(UserError, match="refuses access"):
        run([first], images, server_patience=0)
    with ChatServer() as second:
        assert run([second], images).complete
        # What had its text before the end is not asked for again.
        assert len(second.asked) == len(set(second.asked)) < COUNT
    assert [row["caption"] for row in read_back(images)] == [
        f"Image {number}." for number in range(1, COUNT + 1)
    ]


def test_no_answer_ends_a_run_or_stands_in_a_caption_as_it_came(images: Path) -> None:
    usual = "A grey wall with nothing else to be seen on it at all."
    odd = {
        1: Reply(message={"content": None}, finish_reason="length"),
        2: Reply(
            message={
                "content": [{"type": "reasoning", "text": "So."}, {"type": "text", "text": usual}]
            }
        ),
        3: Reply(message={"content": usual + " \ud83d"}),
        4: Reply(extra={"usage": {"prompt_tokens": 74, "completion_tokens": 3_000_000_000}}),
        5: Reply(message={"content": f"<think>So, a wall.</think>\n\n{usual}"}),
        6: Reply(message={"content": f"So, a wall.</think>{usual}"}),
        7: Reply(message={"content": "<think>So, a wall"}, finish_reason="length"),
        8: Reply(message={"content": f"{usual}\x00\x1b[31m"}),
        9: Reply(body=b"<html>"),
        10: Reply(body=b'{"error": "no"}'),
        11: Reply(message={"content": "\x00"}),
    }
    events: list[str] = []
    with ChatServer(lambda image, times: odd.get(image, Reply())) as server:
        result = run([server], images, on_event=events.append)
    assert result.complete
    rows = {number: row for number, row in enumerate(read_back(images), 1)}
    assert [n for n, row in rows.items() if row["status"] != "ok"] == [1, 9, 10]
    assert {rows[number]["caption"] for number in (2, 5, 6)} == {usual}
    assert [n for n, row in rows.items() if row["trimmed"]] == [5, 6, 7]
    assert rows[4]["caption_tokens"] is None and rows[4]["prompt_tokens"] == 74
    assert rows[7]["caption"] == "" and rows[7]["flags"] == rows[11]["flags"] == ["empty"]
    assert [n for n, row in rows.items() if "garbled" in (row["flags"] or [])] == [3, 8]
    assert not any("\x1b" in (row["caption"] or "") for row in rows.values())
    assert [line for line in events if "3 texts" in line]
