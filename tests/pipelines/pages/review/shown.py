"""A review's page as a reader's program sees it."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """Rows as dicts (name, text, reason, blank, badges, people, picture, attributes), and the rest.

    `said` is all text of the page, `sources` every src and href.
    """

    _KINDS = {"text": "text", "reason": "reason", "blank": "blank", "badge": "badges"}
    _TAGS = {"h3": "name", "li": "people"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.buttons: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.sources: list[str] = []
        self.policy = ""
        self.said = ""
        self._kind: str | None = None
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += known
        self.sources += [known[name] for name in ("src", "href") if name in known]
        if tag == "article":
            self.rows.append({"attributes": known, "badges": [], "people": []})
        elif tag == "button" and "data-filter" in known:
            self.buttons.append(known["title"])
        elif known.get("http-equiv") == "Content-Security-Policy":
            self.policy = known["content"]
        elif tag == "img":
            self.rows[-1]["picture"] = known["src"]
        kind = known.get("class", "").split(" ")[0]
        self._kind = self._TAGS.get(tag) or self._KINDS.get(kind)

    def handle_endtag(self, tag: str) -> None:
        self._kind = None

    def handle_data(self, data: str) -> None:
        self.said += data
        if not self.rows or self._kind is None:
            return
        row = self.rows[-1]
        if self._kind in ("badges", "people"):
            row[self._kind].append(data)
        else:
            row[self._kind] = row.get(self._kind, "") + data

    def names(self) -> list[str]:
        """The rows' file names, in the page's order."""
        return [row["name"] for row in self.rows]
