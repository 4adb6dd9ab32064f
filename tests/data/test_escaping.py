"""Names and texts of others are shown as they are."""

import html
import re

import pytest

from data.escaping import escape_markdown
from tests.properties import given, st


@pytest.mark.parametrize("place", ["{}", "- {}", "| |\n|---|\n| {} |"])
@given(text=st.text("_*`~ a1.é", min_size=1, max_size=12).filter(str.strip))
def test_markdown_shows_a_text_as_it_is(place: str, text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    reader = markdown_it.MarkdownIt().enable(["table", "strikethrough"])
    page = reader.render(place.format(escape_markdown(text)))
    assert html.unescape(re.sub("<[^>]+>", "", page)).split() == text.split()
    assert not re.search("<(em|strong|s|code)>", page)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("__init__.py", r"\_\_init\_\_.py"),
        ("a__b_", r"a\_\_b\_"),
        ("long_file_name_2.jpg", "long_file_name_2.jpg"),
    ],
)
def test_an_underscore_is_literal_alone_within_a_word(name: str, escaped: str) -> None:
    assert escape_markdown(name) == escaped
