"""Files of requests out and answers in: whole runs, in any order, with nothing lost or twice."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captioner.engine.batch.folder import list_requests
from captioner.engine.batch.request_id import name_text
from captioner.engine.protocol import Request
from captioner.store.verification import verify_run
from data.dense.run import read_run
from data.dense.shards import read_rows
from data.errors import UserError
from tests.captioner.batch_service import answer, list_images, read_requests, write_answers
from tests.captioner.chat_server import IMAGE_TOKENS, TEXT_TOKENS, ChatServer, Reply
from tests.captioner.engine.batch_runs import ALL, COUNT, captions, run, shard_bytes, write_colors

EXPECTED = [f"Image {number}." for number in ALL]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_colors(tmp_path / "images")


def test_requests_are_those_of_the_server_engine(images: Path) -> None:
    result = run(images)
    assert (result.done, result.complete, result.interrupted) == (0, False, False)
    requests = read_requests(images.parent / "requests")
    assert list_images(requests) == [0, *ALL]
    assert len({request["custom_id"] for request in requests}) == COUNT + 2
    assert max(len(request["custom_id"]) for request in requests) <= 64
    assert {(r["method"], r["url"]) for r in requests} == {("POST", "/v1/chat/completions")}
    with ChatServer() as server:
        run(images, out=images.parent / "server", batch_file=None, servers=[server.url])
    asked = Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    assert asked == Counter(json.dumps(r["body"], sort_keys=True) for r in requests)


def test_answers_in_any_order_give_rows_in_the_plan_s(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    run(images)
    lines = answer(read_requests(folder))
    for shuffle, out in enumerate(["in order", "shuffled", "other"]):
        # In as many files as there are lines.
        for number, line in enumerate(lines if out == "other" else ()):
            write_answers(folder / f"{number % 7}.jsonl", [line, *lines[:number]], shuffle=number)
        if out != "other":
            write_answers(folder / "answers.jsonl", lines, shuffle=shuffle)
        assert run(images, out=tmp_path / out).complete
        if out == "shuffled":
            (folder / "answers.jsonl").unlink()
    assert shard_bytes(tmp_path / "in order") == shard_bytes(tmp_path / "shuffled")
    assert shard_bytes(tmp_path / "in order") == shard_bytes(tmp_path / "other")
    rows = read_rows(tmp_path / "shuffled").to_pylist()
    assert [row["caption"] for row in rows] == EXPECTED
    assert {row["engine"] for row in rows} == {"batch"}
    assert {row["prompt_tokens"] for row in rows} == {TEXT_TOKENS + IMAGE_TOKENS}
    assert {row["finish_reason"] for row in rows} == {"stop"}
    assert not verify_run(tmp_path / "shuffled").problems
    about = read_run(tmp_path / "shuffled")["engine"]
    assert about["image_tokens"] == [IMAGE_TOKENS]
    assert about["prompt_tokens_without_image"] == [TEXT_TOKENS]
    # All is there: nothing was asked for again.
    assert len(list_requests(folder)) == 1


def test_what_is_missing_is_asked_for_once_its_file_was_answered(
    images: Path, tmp_path: Path
) -> None:
    folder, events = tmp_path / "requests", list[str]()
    run(images)
    run(images, events)
    assert list(list_requests(folder)) == [1]
    assert any("requests-00001.jsonl" in line for line in events)
    write_answers(folder / "a.jsonl", answer(read_requests(folder))[2::2], shuffle=1)
    result = run(images)
    assert (result.done, result.complete, result.interrupted) == (12, False, False)
    assert list_images(read_requests(folder, 2)) == [0, *ALL[1::2]]
    assert run(images).done == 12 and list(list_requests(folder)) == [1, 2]
    # What was not written yet is not waited for: its file is gone.
    (folder / "requests-00002.jsonl").rename(tmp_path / "elsewhere.jsonl")
    assert run(images).done == 12
    assert list_images(read_requests(folder, 2)) == [0, *ALL[1::2]]
    write_answers(folder / "b.jsonl", answer(read_requests(folder, 2)), shuffle=2)
    # What is done is done, whatever becomes of its answer.
    (folder / "a.jsonl").unlink()
    assert run(images).complete and captions(images) == EXPECTED
    assert not verify_run(tmp_path / "out").problems


def test_failures_are_rows_or_asked_for_again(images: Path, tmp_path: Path) -> None:
    folder, events = tmp_path / "requests", list[str]()
    (images / "99.png").write_text("no image")
    run(images)
    odd = {
        1: Reply(status=400),
        2: Reply(status=500),
        3: Reply(status=429),
        4: Reply(drop=True),
        5: Reply(message={"content": None}, finish_reason="length"),
        6: Reply(extra={"choices": []}),
        7: Reply(extra={"error": {"message": "overloaded"}}),
        8: Reply(finish_reason="content_filter"),
        9: Reply(finish_reason="abort"),
    }
    usual = answer(read_requests(folder), lambda image: odd.get(image, Reply()))
    write_answers(folder / "a.jsonl", usual, shuffle=3)
    result = run(images, events)
    assert not result.complete and result.done == COUNT + 1 - 6
    again = read_requests(folder, 2)
    assert list_images(again) == [0, 2, 3, 4, 6, 7, 9]
    assert any("again: 6 " in line for line in events)
    write_answers(folder / "b.jsonl", answer(again))
    result = run(images)
    assert result.statuses == {"decode_error": 1, "engine_error": 3, "ok": COUNT - 3}
    rows = read_rows(tmp_path / "out").to_pylist()
    assert rows[0]["error"].startswith("not accepted: HTTP 400: something is wrong")
    assert "--max-tokens" in rows[4]["error"] and "content_filter" in rows[7]["error"]
    # Only those, with the images' own errors tried, and their answers in the place of the errors.
    assert not run(images, retry_errors=True).complete
    assert list_images(read_requests(folder, 3)) == [0, 1, 5, 8]
    assert not run(images, retry_errors=True).complete and len(list_requests(folder)) == 3
    write_answers(folder / "c.jsonl", answer(read_requests(folder, 3)))
    result = run(images, retry_errors=True)
    assert result.complete and captions(images) == [*EXPECTED, None]


def test_what_fails_for_ever_is_an_error_row(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    run(images)
    for number in range(1, 5):
        lines = answer(
            read_requests(folder, number), lambda image: Reply(status=500 if image == 2 else 200)
        )
        write_answers(folder / f"{number}.jsonl", lines)
        result = run(images)
        assert result.complete is (number == 4)
    rows = read_rows(tmp_path / "out").to_pylist()
    assert "failed 4 times" in rows[1]["error"] and result.errors == 1


def test_lines_that_are_no_answers_are_told_of_and_left_out(images: Path, tmp_path: Path) -> None:
    folder, events = tmp_path / "requests", list[str]()
    run(images)
    lines = answer(read_requests(folder))
    other = answer(read_requests(folder), lambda image: Reply(message={"content": "Of another."}))
    for line in other:
        line["custom_id"] = line["custom_id"].replace("d2s-", "d2s-0123456789abcdef"[:-12])
    foreign = {**lines[5], "custom_id": "request-1"}
    write_answers(folder / "foreign.jsonl", [foreign, *other])
    whole = [json.dumps(line).encode() for line in lines]
    broken = [b"\xff\xfe", b"[1]", b"null", b"{}", b"[" * 100_000, b"x" * (5 << 20), b"", b"  "]
    (folder / "broken.jsonl").write_bytes(b"\n".join([whole[2], *broken, whole[3]]) + b"\n")
    (folder / "copy.jsonl").write_bytes((folder / "requests-00001.jsonl").read_bytes())
    (folder / "cut.jsonl").write_bytes(b"\n".join(whole[4:6]) + b"\n" + whole[6][:-30])
    (folder / "empty.jsonl").touch()
    (folder / "notes.txt").write_text("to be left alone")
    result = run(images, events)
    assert (result.done, result.complete) == (4, False)
    assert list_images(read_requests(folder, 2)) == [0, *ALL[4:]]
    told = {line.split(":")[0].rsplit("/", 1)[-1]: line for line in events if "left out" in line}
    assert {*told} == {"foreign.jsonl", "broken.jsonl", "copy.jsonl", "cut.jsonl"}
    assert f"{len(other) + 1} lines" in told["foreign.jsonl"]
    assert "another run" in told["foreign.jsonl"] and "line 1 " in told["foreign.jsonl"]
    assert "6 lines" in told["broken.jsonl"] and "line 2 " in told["broken.jsonl"]
    assert "cut off" in told["cut.jsonl"] and "line 3 " in told["cut.jsonl"]
    # Whole after all, and the others come.
    (folder / "cut.jsonl").write_bytes(b"\n".join(whole[4:]))
    assert run(images).complete and captions(images) == EXPECTED


def test_two_answers_to_one_request(images: Path, tmp_path: Path) -> None:
    folder, events = tmp_path / "requests", list[str]()
    run(images)
    lines = answer(read_requests(folder))
    other = answer(
        read_requests(folder), lambda image: Reply(message={"content": f"Another {image}."})
    )
    write_answers(folder / "a.jsonl", lines[:12])
    # Some are the same, three are not.
    write_answers(folder / "b.jsonl", [*lines[:9], *other[9:12], *lines[12:], *lines[12:]])
    assert run(images, events).complete and captions(images) == EXPECTED
    assert [line for line in events if "differ" in line and ": 3 " in line]


def test_an_image_that_has_changed_is_asked_for_again(images: Path, tmp_path: Path) -> None:
    folder, events = tmp_path / "requests", list[str]()
    run(images)
    write_answers(folder / "a.jsonl", answer(read_requests(folder)))
    path = sorted(images.iterdir())[4]
    Image.new("RGB", (30, 24), (0, 1, 0)).save(path)
    assert not run(images, events).complete
    assert list_images(read_requests(folder, 2)) == [0, 256]
    assert [line for line in events if "changed" in line and ": 1 " in line]
    write_answers(folder / "b.jsonl", answer(read_requests(folder, 2)))
    assert run(images).complete
    assert captions(images) == [*EXPECTED[:4], "Image 256.", *EXPECTED[5:]]


def test_who_does_not_see_the_images_is_refused(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    run(images)
    blind = Reply(image_tokens=2)
    write_answers(folder / "a.jsonl", answer(read_requests(folder), lambda _: blind, probe=blind))
    with pytest.raises(UserError, match=r"requests-00001.jsonl does not include images"):
        run(images)
    assert not list((tmp_path / "out").glob("train-*")) and len(list_requests(folder)) == 1
    # One that was left out is an error of its row.
    some = answer(read_requests(folder), lambda image: blind if image == 3 else Reply())
    write_answers(folder / "a.jsonl", some)
    assert run(images).errors == 1
    assert "image was not in the prompt" in read_rows(tmp_path / "out").to_pylist()[2]["error"]


@pytest.mark.parametrize("reply", [Reply(usage=False), Reply(status=400)])
def test_where_nobody_counts_it_is_told(images: Path, tmp_path: Path, reply: Reply) -> None:
    folder, events = tmp_path / "requests", list[str]()
    run(images)
    text = Reply(usage=reply.usage)
    write_answers(folder / "a.jsonl", answer(read_requests(folder), lambda _: text, probe=reply))
    assert run(images, events).complete
    assert [line for line in events if "seen" in line and f": {COUNT} " in line]
    assert read_run(tmp_path / "out")["engine"]["image_tokens"] == []


def test_refusals_alone_are_not_the_images_own(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    run(images)
    refuse = Reply(status=400)
    write_answers(folder / "a.jsonl", answer(read_requests(folder), lambda _: refuse))
    with pytest.raises(UserError, match="none of the 23 answers .* something is wrong"):
        run(images)
    silent = Reply(message={"content": " "})
    write_answers(folder / "a.jsonl", answer(read_requests(folder), lambda _: silent))
    with pytest.raises(UserError, match="none of the 23 answers"):
        run(images)
    assert not list((tmp_path / "out").glob("train-*"))
    some = answer(read_requests(folder), lambda image: refuse if image < 20 else Reply())
    write_answers(folder / "a.jsonl", some)
    assert run(images).errors == 19


def test_second_attempts_come_in_a_second_round(images: Path, tmp_path: Path) -> None:
    folder, events = tmp_path / "requests", list[str]()
    loop = Reply(message={"content": "A wall and a wall and a wall " * 30}, finish_reason="length")
    options: dict[str, Any] = {"retry_flagged": ("truncated",), "out": tmp_path / "out"}
    run(images, **options)
    first = read_requests(folder)
    lines = answer(first, lambda image: loop if image in (2, 20) else Reply())
    write_answers(folder / "a.jsonl", lines)
    assert run(images, events, **options).done == COUNT - 2
    again = read_requests(folder, 2)
    assert list_images(again) == [0, 2, 20]
    assert [line for line in events if "--batch-format" in line]
    seeds = {request["body"]["seed"] for request in first}
    assert not seeds & {request["body"]["seed"] for request in again[2:]}
    write_answers(folder / "b.jsonl", answer(again))
    assert run(images, **options).complete and captions(images) == EXPECTED
    rows = read_rows(tmp_path / "out").to_pylist()
    assert [n for n, row in enumerate(rows, 1) if row["attempt"] == 2] == [2, 20]


def test_a_second_attempt_that_differs_in_nothing_is_asked_for_too(
    images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "requests"
    loop = Reply(message={"content": "A wall and a wall and a wall " * 30}, finish_reason="length")
    options: dict[str, Any] = {"retry_flagged": ("truncated",), "repetition_penalty": 1.0}
    options |= {"seed": None, "out": tmp_path / "out"}
    run(images, **options)
    write_answers(
        folder / "a.jsonl",
        answer(read_requests(folder), lambda image: loop if image == 2 else Reply()),
    )
    assert run(images, **options).done == COUNT - 1
    again = read_requests(folder, 2)
    assert list_images(again) == [0, 2]
    write_answers(folder / "b.jsonl", answer(again))
    assert run(images, **options).complete and captions(images) == EXPECTED
    assert [row["attempt"] for row in read_rows(tmp_path / "out").to_pylist()][:3] == [1, 2, 1]


def test_names_of_texts_stay_as_they_are_in_existing_folders() -> None:
    def name(seed: int | None, **more: Any) -> str:
        return name_text(Request("a", Image.new("RGB", (1, 1)), "", seed, **more))

    assert name(7) == "4f9c994bc77e57da6d2c"
    assert name(None) == "9f4aa7976cbe30ade665"
    assert name(8, attempt=2) == "65872c8203a7b1dcf394"
    assert name(None, repetition_penalty=1.1, attempt=2) == "e6a597c69605329af51e"


def test_new_images_are_asked_for_alone(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    run(images, limit=7)
    write_answers(folder / "a.jsonl", answer(read_requests(folder)))
    assert run(images, limit=7).complete
    before = shard_bytes(tmp_path / "out")
    assert not run(images, append=True).complete
    assert list_images(read_requests(folder, 2)) == [0, *ALL[7:]]
    write_answers(folder / "b.jsonl", answer(read_requests(folder, 2)))
    assert run(images, append=True).complete and captions(images) == EXPECTED
    after = shard_bytes(tmp_path / "out")
    assert all(after[name] == before[name] for name in before if name.startswith("train-"))
