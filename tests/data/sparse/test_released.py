"""The released code's files: read line by line, and never a line passed over."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.sparse.released import (
    DenseLine,
    describe_repeats,
    find_lost_metadata,
    format_dense_line,
    read_caption_lines,
    read_dense_lines,
    read_id_mapping,
    read_ids,
)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_ids_once_and_ids_five_times(tmp_path: Path) -> None:
    train = read_ids(write(tmp_path / "train_ids.txt", "7\n3\n9\n"))
    assert train.ids == ("7", "3", "9") and train.repeats == 1
    assert describe_repeats(train) == []
    test = read_ids(write(tmp_path / "test_ids.txt", "7\n" * 5 + "3\r\n" * 5))
    assert test.ids == ("7", "3") and test.repeats == 5
    assert "each of its 2 ids 5 times in a row" in describe_repeats(test)[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "contains no ids"),
        ("\n\n", "contains no ids"),
        ("7\n\n3\n", "line 2 is blank"),
        ("7\n3\n7\n", "the id 7 in line 3 is already in line 1"),
        ("7\n7\n3\n", "the id 3 in line 3 appears 1 times in a row, and 7 in line 1 2 times"),
    ],
)
def test_ids_that_would_shift_pairs_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_ids(write(tmp_path / "ids.txt", text))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_ids(tmp_path / "ids.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_ids(tmp_path)
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe7")
    with pytest.raises(UserError, match="UTF-8"):
        read_ids(tmp_path / "ids.txt")


def test_the_mapping(tmp_path: Path) -> None:
    assert read_id_mapping(write(tmp_path / "m.json", '{"0": "a.jpg"}')) == {"0": "a.jpg"}
    for text, complaint in (
        ("[]", "is not an id mapping"),
        ("{", "cannot be read as JSON"),
        ('{"0": 5}', "the id 0 is mapped to 5"),
        ('{"0": ""}', "the id 0 is mapped to ''"),
        ('{"0": "a.jpg", "0": "b.jpg"}', "it has 0 twice"),
    ):
        with pytest.raises(UserError, match=complaint):
            read_id_mapping(write(tmp_path / "m.json", text))


def test_caption_lines_are_shared_out_evenly(tmp_path: Path) -> None:
    path = write(tmp_path / "test_caps.txt", "a .\nb\u2028b\nc\nd\n")
    assert read_caption_lines(path, images=2) == [("a .", "b\u2028b"), ("c", "d")]
    with pytest.raises(UserError, match="4 lines, which 3 ids cannot share"):
        read_caption_lines(path, images=3)
    with pytest.raises(UserError, match="line 2 is blank"):
        read_caption_lines(write(path, "a\n\nc\n"), images=3)


def test_a_dense_line_comes_back_byte_by_byte(tmp_path: Path) -> None:
    text = ' a "caf\u00e9"\u2028\n\U0001f436\\ '
    line = format_dense_line(text, model_id="llava")
    assert line.isascii() and "\n" not in line
    # The order, the spaces and the escapes are those of the released files.
    assert line == (
        '{"text": " a \\"caf\\u00e9\\"\\u2028\\n\\ud83d\\udc36\\\\ ", "model_id": "llava", '
        '"metadata": {"length": 14}}'
    )
    path = write(tmp_path / "x.jsonl", line + "\n" + line + "\n")
    assert read_dense_lines(path) == [DenseLine(text, "llava", {"length": len(text)})] * 2


@pytest.mark.parametrize("bad", ["", "{", '{"text": 5}', '{"txt": "a"}', "[]", '"text"'])
def test_a_bad_dense_line_is_named(tmp_path: Path, bad: str) -> None:
    good = json.dumps({"text": "a"})
    path = write(tmp_path / "x.jsonl", f"{good}\n{bad}\n{good}\n")
    with pytest.raises(UserError, match="line 2"):
        read_dense_lines(path)


def test_metadata_that_an_export_would_lose_is_found() -> None:
    lines = [
        DenseLine("abc", "m", {"length": 3}),
        DenseLine("abc"),
        DenseLine("abc", "m", {"k": 1}),
    ]
    assert find_lost_metadata(lines) == [3]
