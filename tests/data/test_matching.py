"""The rule that ties images to texts: whole names first, nothing that is not the only one."""

import unicodedata

import pytest

from data.errors import UserError
from data.matching import find_rows, name_id, tie
from tests.properties import given, st

PARTS = st.sampled_from(["a", "b", "cats", "dogs", "1", "01", "7.0", "é", "e\u0301", "val2014"])
FILES = st.sampled_from(
    ["1.jpg", "01.jpg", "é.jpg", "e\u0301.jpg", "7", "007", "7.0", "a.tar",
     "COCO_val2014_000000000007.jpg", "000000000007.jpg", "000000000007.png"]
)  # fmt: skip
NAMES = st.builds(
    lambda folders, last: "/".join([*folders, last]), st.lists(PARTS, max_size=2), FILES
)
LISTS = st.lists(NAMES, max_size=8, unique=True)
# Of these no two are spellings of one another.
PLAIN = st.lists(st.from_regex(r"[1-9a-z][a-z]{1,5}[0-9]?\.jpg", fullmatch=True), min_size=1,
                 max_size=8, unique=True)  # fmt: skip


@given(LISTS, LISTS)
def test_no_row_is_tied_twice_and_a_whole_name_always(wanted: list[str], rows: list[str]) -> None:
    found = tie(wanted, rows).rows
    used = [row for row in found if row is not None]
    assert len(set(used)) == len(used)
    for name, row in zip(wanted, found, strict=True):
        if name in rows:
            assert row is not None and rows[row] == name


@given(LISTS, LISTS, st.randoms())
def test_the_order_and_the_side_change_nothing(wanted: list[str], rows: list[str], random) -> None:  # type: ignore[no-untyped-def]
    def pair(ours: list[str], theirs: list[str]) -> set[tuple[str, str]]:
        found = zip(ours, tie(ours, theirs).rows, strict=True)
        return {(name, theirs[row]) for name, row in found if row is not None}

    before = pair(wanted, rows)
    assert {(a, b) for b, a in pair(rows, wanted)} == before
    random.shuffle(rows)
    random.shuffle(wanted)
    assert pair(wanted, rows) == before


@given(LISTS, LISTS, NAMES)
def test_one_more_candidate_never_leads_to_another_row(
    wanted: list[str], rows: list[str], more: str
) -> None:
    before, after = tie(wanted, rows).rows, tie(wanted, [*rows, more]).rows
    for name, row, now in zip(wanted, before, after, strict=True):
        if row is not None and more != name and more not in rows:
            assert now in (row, None)


@given(LISTS, LISTS)
def test_what_is_tied_by_less_than_a_whole_name_is_counted(
    wanted: list[str], rows: list[str]
) -> None:
    ties = tie(wanted, rows)
    pairs = zip(wanted, ties.rows, strict=True)
    loose = sum(row is not None and rows[row] != name for name, row in pairs)
    assert any(note.startswith(f"{loose} of {len(wanted)} matched by") for note in ties.notes) == (
        loose > 0
    )


@given(PLAIN)
def test_folders_that_differ_are_never_the_same(names: list[str]) -> None:
    cats, dogs = [f"cats/{name}" for name in names], [f"dogs/{name}" for name in names]
    assert tie(cats, dogs).rows == [None] * len(names)
    assert tie(cats, [*dogs, *cats]).rows == list(range(len(names), 2 * len(names)))
    assert tie(names, [*dogs, *cats]).rows == [None] * len(names)
    assert "more than one fits" in tie(names, [*dogs, *cats]).notes[0]
    assert tie(names, dogs).rows == list(range(len(names)))


@given(PLAIN, st.sampled_from(["x/{}", "./{}", "s-000.tar/{}", "a\\b\\{}", "/data/coco/{}"]))
def test_another_way_to_a_file_is_the_same_file(names: list[str], way: str) -> None:
    ties = tie([way.format(name) for name in names], names)
    assert ties.rows == list(range(len(names)))
    assert f"{len(names)} of {len(names)} matched by" in ties.notes[0]


@given(st.text(min_size=1).filter(lambda t: "/" not in t and "\\" not in t), st.integers(0, 9999))
def test_spellings_of_one_name(text: str, number: int) -> None:
    one, other = (unicodedata.normalize(form, f"é{text}") for form in ("NFC", "NFD"))
    assert tie([one], [other]).rows == [0]
    for way in (f"{number:06d}", f"{number}.0", str(number)):
        assert tie([way], [str(number)]).rows == [0]
        assert tie([way], [str(number + 1)]).rows == [None]
    name = f"COCO_val2014_{number:012d}.jpg"
    assert tie([f"val2014/{name}"], [f"train2017/{number:012d}.jpg"]).rows == [0]
    assert tie([name], [str(number)]).rows == [0]
    assert tie([name], [f"COCO_train2014_{number:012d}.jpg"]).rows == [None]


def test_of_two_that_fit_none_is_taken() -> None:
    assert tie(["7"], ["007", "7.0"]).rows == [None]
    assert tie(["7"], ["007", "7"]).rows == [1]
    assert tie(["7", "007"], ["7.0"]).rows == [None, None]
    assert tie(["7", "007"], ["7"]).rows == [0, None]


def test_an_image_has_several_keys() -> None:
    rows = [("a.jpg", "5"), ("b.jpg", "6")]
    assert tie([("b.jpg", "5")], rows).rows == [1]
    assert tie([(None, "5"), ("q.jpg", "6.0")], rows).rows == [0, 1]
    assert tie([("x/a.jpg", "6.0")], rows).rows == [None]


@pytest.mark.parametrize(
    ("value", "name"),
    [(7, "7"), ("7", "7"), ("07", "07"), (391895.0, "391895"), (1.5, "1.5"), (None, None),
     (float("nan"), None), ("", None), (2.0**60, str(2**60))],
)  # fmt: skip
def test_ids_as_text(value: object, name: str | None) -> None:
    assert name_id(value) == name


@pytest.mark.parametrize("value", [True, [7], {"a": 1}, b"7"])
def test_what_is_no_id(value: object) -> None:
    with pytest.raises(ValueError, match="not an id"):
        name_id(value)


def test_rows_of_ids() -> None:
    rows = [("x/a.jpg", "5"), ("x/b.jpg", None), ("c.jpg", "7")]
    assert find_rows(["7", "5"], {}, rows, where="here") == ([2, 0], ())
    places, notes = find_rows(["007"], {}, rows, where="here")
    assert places == [2] and "1 of 1" in notes[0]
    assert find_rows(["1"], {"1": "x/b.jpg"}, rows, where="here")[0] == [1]


def test_the_mapping_s_file_name_beats_an_equal_id() -> None:
    """Id 1 of the rows is another image than id 1 of the mapping."""
    rows = [("a.jpg", "1"), ("b.jpg", "2")]
    assert find_rows(["1"], {"1": "b.jpg"}, rows, where="here")[0] == [1]
    with pytest.raises(UserError, match="1 of 1 ids have no row in here: 1"):
        find_rows(["1"], {"1": "c.jpg"}, rows, where="here")


def test_missing_ids_are_counted_and_the_first_named() -> None:
    with pytest.raises(UserError, match=r"4 of 5 ids .*: 2, 3, 4, \.\.\.; .*--id-mapping"):
        find_rows(["1", "2", "3", "4", "5"], {}, [("a.jpg", "1")], where="here")


def test_duplicates_are_refused() -> None:
    with pytest.raises(UserError, match="more than one row of here: 5"):
        find_rows(["5"], {}, [("a.jpg", "5"), ("b.jpg", "5")], where="here")
    with pytest.raises(UserError, match="more than one row of here: a.jpg"):
        find_rows(["5"], {}, [("a.jpg", None), ("a.jpg", None)], where="here")
    with pytest.raises(UserError, match="the ids 1 and 2 lead to the same row"):
        find_rows(["1", "2"], {"1": "a.jpg", "2": "a.jpg"}, [("a.jpg", None)], where="here")
