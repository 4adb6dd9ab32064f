"""The Gradio page: text and photo queries, results, and the comparison of a selected hit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.images import ImageError, read_file
from pipelines.search_app.collection import NOTHING_ASKED, Collection, Query
from pipelines.search_app.gradio_import import UPLOADS, gr
from pipelines.search_app.html import (
    read_style,
    render_answer,
    render_comparison,
    render_head,
    render_hint,
    render_message,
)

# Clicks on a hit's button are sent to Python with its place; delegated, since hits change.
_TELL_PLACE = """
element.addEventListener('click', event => {
  const hit = event.target.closest('[data-place]');
  if (hit) trigger('choose', {place: hit.dataset.place});
});
"""
# The comparison is above the results: scroll to it after a hit is selected.
_COME_INTO_SIGHT = """
watch('value', () => {
  if (element.querySelector('.d2s-comparison')) element.scrollIntoView({block: 'nearest'});
});
"""

# Seconds: interval for checking uploads, and the age at which they are deleted.
_FORGET = (600, 3600)

# Queries that are answered at the same time, for each kind of event.
_MOST_AT_ONCE = 8

Answered = tuple[Query | None, str, str]


class PageEvents:
    """Event handlers of the page. Errors in queries are shown on the page."""

    def __init__(self, collection: Collection, *, top: int) -> None:
        self._collection = collection
        self._top = top

    def answer_text(self, text: str | None) -> Answered:
        """For Enter in the text field."""
        return self._answer(lambda: self._collection.ask_text(text))

    def answer_photo(self, photo: str | None) -> Answered:
        """For a photo that was dropped."""
        return self._answer(lambda: self._collection.ask_photo(_read_photo(photo)))

    def answer_either(self, text: str | None, photo: str | None) -> Answered:
        """For the button: the text if there is one, else the photo."""
        blank = not (text or "").strip()
        return self.answer_photo(photo) if blank and photo else self.answer_text(text)

    def compare(self, query: Query | None, chosen: gr.EventData) -> str:
        """For a click on a hit."""
        try:
            if query is None:
                raise UserError(NOTHING_ASKED)
            place = _read_place(getattr(chosen, "place", None))
            return render_comparison(self._collection.compare(query, place))
        except UserError as error:
            return render_message(str(error))

    def _answer(self, ask: Any) -> Answered:
        try:
            query = ask()
            sections = self._collection.search(query, top=self._top)
        except UserError as error:
            return None, render_message(str(error)), ""
        return query, render_answer(query, sections), render_hint()


def build_page(collection: Collection, *, top: int, title: str) -> gr.Blocks:
    """The page; `pipelines.search_app.server` serves it.

    Args:
        top: number of hits per index.
    """
    answers = PageEvents(collection, top=top)
    # No API for others.
    closed: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    # One visitor at a time is Gradio's default, but pictures may come from a slow server.
    closed["concurrency_limit"] = _MOST_AT_ONCE
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=_FORGET) as page:
        query = gr.State(None, time_to_live=_FORGET[1])
        gr.HTML(render_head(collection, title=title))
        with gr.Row():
            with gr.Column(scale=2):
                text = gr.Textbox(label="Text", placeholder="a red car", max_lines=4)
                search = gr.Button("Search", variant="primary")
            photo = gr.Image(
                label="or a photo",
                sources=["upload", "clipboard"],
                height=180,
                buttons=[],
                elem_id="d2s-photo",
            )
            _take_uploads_alone(photo)
        comparison = gr.HTML(js_on_load=_COME_INTO_SIGHT, elem_id="d2s-comparison")
        answer = gr.HTML(js_on_load=_TELL_PLACE, elem_id="d2s-answer")
        outputs = [query, answer, comparison]
        text.submit(answers.answer_text, text, outputs, **closed)
        search.click(answers.answer_either, [text, photo], outputs, **closed)
        photo.upload(answers.answer_photo, photo, outputs, **closed)
        answer.choose(answers.compare, query, comparison, **closed)
    return page


def make_theme() -> gr.Theme:
    """The colors of our other pages, and local fonts: none are downloaded."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(**_COLORS)


STYLE = read_style()
# As in pipelines/pages/kit/style.css.
_COLORS = {
    "body_background_fill": "#f4f6f9",
    "body_background_fill_dark": "#11151b",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#1b212b",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#1b212b",
    "border_color_primary": "#d9dee7",
    "border_color_primary_dark": "#333b49",
    "body_text_color": "#1c2330",
    "body_text_color_dark": "#e6eaf1",
    "button_primary_background_fill": "#0072b2",
    "button_primary_background_fill_dark": "#5ab4e8",
    "button_primary_background_fill_hover": "#005a8e",
    "button_primary_background_fill_hover_dark": "#8acbf0",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#0d1117",
}


def _take_uploads_alone(photo: gr.Image) -> None:
    """Pass on the dropped file unopened: `Collection` reports errors in it.

    Gradio would open it, and would fetch a URL that a client sends instead. (Methods are replaced
    because Gradio writes a .pyi file next to the source of a subclass.)
    """
    keep = photo.async_move_resource_to_block_cache

    async def keep_file(url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise ValueError("URLs are not fetched: only uploads are accepted")
        return await keep(url_or_file_path)

    photo.async_move_resource_to_block_cache = keep_file  # type: ignore[method-assign]
    photo.preprocess = _take_path  # type: ignore[method-assign]


def _take_path(payload: Any) -> str | None:
    if payload is None or payload.path is None:
        return None
    path = Path(payload.path).resolve()
    if not path.is_relative_to(Path(UPLOADS.name).resolve()):
        raise ValueError("the photo was not uploaded")
    return str(path)


def _read_photo(path: str | None) -> bytes:
    if path is None:
        raise UserError(NOTHING_ASKED)
    try:
        return read_file(Path(path))
    except ImageError as error:
        raise UserError(f"This photo cannot be read: {error}.") from error


def _read_place(told: object) -> tuple[int, int]:
    try:
        number, row = (int(part) for part in str(told).split(" "))
    except ValueError as error:
        raise UserError("This result no longer exists. Search again.") from error
    return number, row


# Gradio logs each httpx request to itself.
logging.getLogger("httpx").setLevel(logging.WARNING)
