"""Rows by id and file name; what is ambiguous is refused, never guessed."""

import pytest

from data.errors import UserError
from data.matching import RowIndex


def test_by_id_by_name_and_by_the_last_part_of_a_name() -> None:
    index = RowIndex(["5", None, "7"], ["x/a.jpg", "x/b.jpg", "c.jpg"], where="here")
    assert index.find("7") == 2
    assert index.find("8") is None
    assert index.find("?", file_name="x/b.jpg") == 1
    assert index.find("?", file_name="y/a.jpg") == 0
    assert index.find_all(["7", "5"], {}) == [2, 0]


def test_the_mapping_s_file_name_beats_an_equal_id() -> None:
    """Id 1 of the rows is another image than id 1 of the mapping."""
    index = RowIndex(["1", "2"], ["a.jpg", "b.jpg"], where="here")
    assert index.find_all(["1"], {"1": "b.jpg"}) == [1]
    with pytest.raises(UserError, match="1 of 1 ids have no row in here: 1"):
        index.find_all(["1"], {"1": "c.jpg"})


def test_a_last_part_that_two_rows_share_decides_nothing() -> None:
    index = RowIndex([None, None], ["x/a.jpg", "y/a.jpg"], where="here")
    assert index.find("1", file_name="a.jpg") is None
    assert index.find("1", file_name="y/a.jpg") == 1


def test_missing_ids_are_counted_and_the_first_named() -> None:
    index = RowIndex(["1"], ["a.jpg"], where="here")
    with pytest.raises(UserError, match=r"4 of 5 ids .*: 2, 3, 4, \.\.\.; .*--id-mapping"):
        index.find_all(["1", "2", "3", "4", "5"], {})


def test_duplicates_are_refused() -> None:
    with pytest.raises(UserError, match="more than one row of here: 5"):
        RowIndex(["5", "5"], ["a.jpg", "b.jpg"], where="here")
    with pytest.raises(UserError, match="more than one row of here: a.jpg"):
        RowIndex([None, None], ["a.jpg", "a.jpg"], where="here")
    index = RowIndex([None], ["a.jpg"], where="here")
    with pytest.raises(UserError, match="the ids 1 and 2 lead to one row"):
        index.find_all(["1", "2"], {"1": "a.jpg", "2": "x/a.jpg"})
