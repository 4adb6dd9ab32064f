"""Tables and JSON as people have them: each row is read as it was written, or its line named."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.files.text_files import DELIMITERS, read_delimited, read_json, read_json_lines, read_text
from data.sparse.captions import read_captions
from data.tables.texts import read_texts
from tests.properties import given, st

CELLS = st.text(
    st.sampled_from("ab ,;|\t\"'\r\n\u2028\x0b\x85é") | st.characters(exclude_categories=["Cs"])
).filter(lambda text: "\0" not in text)
TABLES = st.lists(st.tuples(CELLS, CELLS), max_size=6)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(TABLES, st.sampled_from(DELIMITERS[:3]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_a_writer_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    sign: str,
    end: str,
    marked: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.csv"
    with path.open("w", encoding="utf-8-sig" if marked else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=sign, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "text"), *rows])
    found = [row for _, row in read_delimited(path)]
    assert found == [["id", "text"], *map(list, rows)]


@given(st.lists(CELLS.filter(str.strip), min_size=1, max_size=6))
def test_no_caption_is_lost_without_a_word(
    tmp_path_factory: pytest.TempPathFactory, captions: list[str]
) -> None:
    """Whatever stands in a caption that nobody quoted: all rows, or a refusal."""
    lines = [" ".join(caption.split()) for caption in captions]
    text = "".join(f"{number}.jpg,{line}\n" for number, line in enumerate(lines))
    path = write(tmp_path_factory.mktemp("one") / "captions.txt", f"image,caption\n{text}")
    try:
        source = read_captions(path)
    except UserError as error:
        assert "line" in str(error)
    else:
        assert len(source.images) == len(lines)


@pytest.mark.parametrize(
    "ways",
    [
        [',"A sign says stop', ",b", ",c"],
        [',"A sign says stop', ",b", ',"c'],
        [',"A sign says stop', ",b", ',says "c"', ",d"],
        [',"A sign says stop', ',he says "go', ",d"],
    ],
)
def test_a_quotation_mark_left_open_is_refused_with_its_line(
    tmp_path: Path, ways: list[str]
) -> None:
    rows = "".join(f"{number}.jpg{way}\n" for number, way in enumerate(ways))
    path = write(tmp_path / "captions.txt", f"image,caption\nx.jpg,fine\n{rows}")
    with pytest.raises(UserError, match="line 3.*quotation mark"):
        read_captions(path)


def test_line_ends_within_a_quoted_caption(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", 'image,caption\r\n1.jpg,"a\r\ndog"\r\n2.jpg,a\u2028cat\r\n')
    assert [i.captions for i in read_captions(path).images] == [("a dog",), ("a cat",)]
    write(path, 'image,caption\n1.jpg,"a\ndog"\n\n2.jpg\n')
    with pytest.raises(UserError, match="line 5 has 1 columns"):
        read_captions(path)


HEADS = [
    ("image_name,comment_number,comment", ","),
    ("image_name| comment_number| comment", "| "),
    ("comment_number;image;caption", ";"),
    ("\ufeffIMAGE\tnumber\tCaption", "\t"),
]


@pytest.mark.parametrize(("head", "sign"), HEADS)
def test_columns_are_found_by_their_names(tmp_path: Path, head: str, sign: str) -> None:
    names = [name.strip("\ufeff ").lower() for name in head.split(sign.strip(" "))]
    lines = [head]
    for number in range(4):
        cells = {"caption": f'A "wall" {number} .', "comment": f'A "wall" {number} .'}
        cells |= dict.fromkeys(("image", "image_name"), f"{number // 2}.jpg")
        lines.append(sign.join(cells.get(name, str(number)) for name in names))
    path = write(tmp_path / "captions.txt", "\n".join(lines))
    source = read_captions(path)
    assert [(i.file_name, i.captions) for i in source.images] == [
        ("0.jpg", ('A "wall" 0 .', 'A "wall" 1 .')),
        ("1.jpg", ('A "wall" 2 .', 'A "wall" 3 .')),
    ]
    assert [record.file_name for record in read_texts(path)] == ["0.jpg"] * 2 + ["1.jpg"] * 2


def test_a_comma_in_the_last_column_needs_no_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "captions.txt", "image_name,comment_number,comment\n0.jpg,0,A , b .\n")
    assert read_captions(path).images[0].captions == ("A , b .",)
    write(path, "caption,image\nA , b .,0.jpg\n")
    with pytest.raises(UserError, match="line 2 has 3 columns"):
        read_captions(path)


@pytest.mark.parametrize(
    "head", ["img_path,desc", "image,caption,text", "image,number", "0.jpg,a wall", "words,image"]
)
def test_a_header_that_is_not_understood_is_refused(tmp_path: Path, head: str) -> None:
    path = write(tmp_path / "captions.txt", f"{head}\n0.jpg,a wall\n1.jpg,another\n")
    for read in (read_captions, read_texts):
        with pytest.raises(UserError, match="not a Flickr captions file"):
            read(path)


def test_a_table_with_splits_is_split_by_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.csv", "image,caption,split\n0.jpg,a,TRAIN\n1.jpg,b,dev\n1.jpg,c,val\n"
    )
    source = read_captions(path)
    assert [i.split for i in source.images] == ["train", "val"] and source.notes == ()
    write(path, "image,caption,split\n1.jpg,b,dev\n1.jpg,c,test\n")
    with pytest.raises(UserError, match="line 3 has 1.jpg in a different split"):
        read_captions(path)


def test_encodings(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read_text(write(tmp_path / "t", "é\n".encode(encoding))) == "é\n"
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        read_text(write(tmp_path / "t", "a\né\n".encode("cp1252")))
    with pytest.raises(UserError, match="does not exist"):
        read_text(tmp_path / "none")


def test_json(tmp_path: Path) -> None:
    assert read_json(write(tmp_path / "t", '\ufeff{"a": 1}')) == {"a": 1}
    for bad in ("{", "[" * 100_000):
        with pytest.raises(UserError, match="cannot be read as JSON"):
            read_json(write(tmp_path / "t", bad))
    lines = write(tmp_path / "t", '\ufeff{"a": "x\u2028"}\r\n\n[1]\n')
    assert list(read_json_lines(lines, skip_blank=True)) == [(1, {"a": "x\u2028"}), (3, [1])]
    with pytest.raises(UserError, match="line 2 is not JSON"):
        list(read_json_lines(lines))


def test_half_a_character_in_json_lines(tmp_path: Path) -> None:
    rows = [{"id": 7.0, "text": "half \ud83d of"}, {"id": None, "text": None, "image_id": 3.0}]
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    first, second = read_texts(path)
    assert (first.id, first.text) == ("7", "half ? of")
    assert (second.id, second.text, second.image_id) == ("2", None, "3")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"image,caption\n", mtime=0), "gzip"),
        ("image,caption\n".encode("utf-16-le"), "UTF-16"),
        (b"image,caption\n0.jpg,a\0wall\n", "line 2"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        read_captions(write(tmp_path / "captions.txt", content))
    assert "WINDOWS-1252" not in str(caught.value)


def test_two_tables_in_one_file_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "image,caption\n0.jpg,a\nimage,caption\n1.jpg,b\n")
    for read in (read_captions, read_texts):
        with pytest.raises(UserError, match="line 3 repeats the header"):
            read(path)


def test_lists_of_captions_in_a_cell(tmp_path: Path) -> None:
    """As pandas and the Hub's Flickr30K write them."""
    head = "raw,sentids,split,filename\n"
    rows = ['"[""a wall"", ""it\'s red""]","[0, 1]",train,0.jpg', "\"['b, c', 'd']\",[2],val,1.jpg"]
    source = read_captions(write(tmp_path / "c.csv", head + "\n".join(rows)))
    assert [i.captions for i in source.images] == [("a wall", "it's red"), ("b, c", "d")]
    for broken in ("\"['a', 7]\"", "\"['a', b('c')]\""):
        with pytest.raises(UserError, match="line 2"):
            read_captions(write(tmp_path / "c.csv", f"image,caption\n0.jpg,{broken}\n"))


def test_words_for_no_value_are_no_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,text\n1,NaN\nnan,a null byte\n3,null\n4,None of it\n")
    assert [(r.id, r.text) for r in read_texts(path)] == [
        ("1", None),
        ("2", "a null byte"),
        ("3", None),
        ("4", "None of it"),
    ]
