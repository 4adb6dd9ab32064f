"""An index of answers by request, on disk because there can be many."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.engine.batch.request_id import ALONE, BLANK, RequestId
from captioner.engine.batch.result import open_response
from captioner.engine.image_guard import ImageGuard
from captioner.engine.server.chat import MOST_TOKENS, AnswerCheck, read_answer, read_model
from captioner.engine.server.client import RefusedError, ServerError, clean_text, parse_json
from data.errors import UserError

# As for a server: a dense text takes a few kilobytes.
_LONGEST_LINE = 4 * 2**20
_MOST_MODELS = 10
_ANY = AnswerCheck(ImageGuard(None, None, 1), MOST_TOKENS)


@dataclass(frozen=True)
class Place:
    """The location of an answer, and its request."""

    asked: RequestId
    path: Path
    offset: int
    size: int


@dataclass
class Summary:
    """Totals over the answers of a run: texts and refusals, with the `reason` of the last one.

    Temporary failures (expired, overloaded) count as neither.

    `returned` are the numbers of the files of requests that have answers, `models` what those who
    answered call themselves.
    """

    texts: int = 0
    refusals: int = 0
    reason: str = ""
    returned: set[int] = field(default_factory=set)
    models: set[str] = field(default_factory=set)


class AnswerIndex:
    """Index of the answers of one run in a set of files. Must be closed."""

    def __init__(self, paths: Sequence[Path], run: str, *, on_event: Callable[[str], None]) -> None:
        """Read all files once; `on_event` gets a line per file about unusable lines.

        Raises:
            UserError: a file cannot be read, or there is no disk space for the index.
        """
        self._paths = paths
        self.run = run
        self._on_event = on_event
        self.summary = Summary()
        # Without a name, SQLite uses a temporary file, which is removed with the process.
        self._base = sqlite3.connect("")
        self._base.execute("PRAGMA journal_mode=OFF")
        columns = "text TEXT, image TEXT, number INT, file INT, start INT, size INT"
        self._base.execute(f"CREATE TABLE answers ({columns})")
        self._base.execute(
            "CREATE TABLE waiting (text TEXT, image TEXT, PRIMARY KEY (text, image)) WITHOUT ROWID"
        )
        with _explain_no_room():
            for file, path in enumerate(paths):
                rows = self._read_file(file, path)
                self._base.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._base.execute("CREATE INDEX by_text ON answers (text)")

    def find(self, text: str) -> list[Place]:
        """All answers for one text, with any image, in the order of files and lines."""
        rows = self._base.execute(
            "SELECT image, number, file, start, size FROM answers WHERE text = ? "
            "ORDER BY file, start",
            (text,),
        )
        return [
            Place(RequestId(self.run, number, text, image), self._paths[file], start, size)
            for image, number, file, start, size in rows
        ]

    def read(self, place: Place) -> dict[str, Any]:
        """The line of an answer.

        Raises:
            UserError: it no longer exists.
        """
        try:
            with place.path.open("rb") as file:
                file.seek(place.offset)
                line = parse_json(file.read(place.size))
            if line["custom_id"] == str(place.asked):
                return dict(line)
        except (OSError, ValueError, TypeError, KeyError):
            # The same as if another line were in its place.
            pass
        raise UserError(
            f"{place.path} has changed while it was read: run the same command again once it is "
            "whole"
        )

    def add_waiting(self, asked: Iterable[RequestId]) -> None:
        """Record requests that were written and have no answer yet.

        Raises:
            UserError: there is no disk space for them.
        """
        rows = ((one.text, one.image) for one in asked if one.run == self.run)
        with _explain_no_room():
            self._base.executemany("INSERT OR IGNORE INTO waiting VALUES (?, ?)", rows)

    def is_waiting(self, text: str, image: str) -> bool:
        """Whether a request is recorded as waiting."""
        found = self._base.execute(
            "SELECT 1 FROM waiting WHERE text = ? AND image = ?", (text, image)
        )
        return found.fetchone() is not None

    def close(self) -> None:
        self._base.close()

    def _read_file(self, file: int, path: Path) -> Iterator[tuple[str, str, int, int, int, int]]:
        left = _LeftOut(path)
        for number, (offset, content) in enumerate(_read_lines(path), 1):
            if not content.strip():
                continue
            line = _parse(content)
            if line is None:
                left.note("cut" if content[-1:] != b"\n" else "broken", number)
                continue
            asked = RequestId.parse(line["custom_id"])
            if asked is None or asked.run != self.run:
                left.note("foreign", number)
                continue
            self._count(asked, line)
            yield asked.text, asked.image, asked.number, file, offset, len(content)
        for event in left.describe():
            self._on_event(event)

    def _count(self, asked: RequestId, line: dict[str, Any]) -> None:
        summary = self.summary
        summary.returned.add(asked.number)
        if asked.text in (ALONE, BLANK):
            return
        try:
            answer = open_response(line)
            found = read_answer(answer, key="", check=_ANY)
        except ServerError:
            return
        except RefusedError as refusal:
            summary.refusals += 1
            summary.reason = str(refusal)
            return
        model = read_model(answer)
        if model is not None and len(summary.models) < _MOST_MODELS:
            summary.models.add(clean_text(model))
        if found.error is None and found.text.strip():
            summary.texts += 1
        else:
            summary.refusals += 1
            summary.reason = found.error or "nothing"


@contextlib.contextmanager
def _explain_no_room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"the index of the answers cannot be written ({error}): make room for temporary "
            "files, or set TMPDIR to a folder that has some"
        ) from error


class _LeftOut:
    """Counts of a file's lines that are not answers of the run, with the first of each kind."""

    _SAID = {
        "broken": "no answers of a batch",
        "cut": "cut off: is it still being written or fetched?",
        "foreign": "answers of another run",
    }

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[str] = Counter()
        self._first: dict[str, int] = {}

    def note(self, kind: str, number: int) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, number)

    def describe(self) -> Iterator[str]:
        for kind, count in self._counts.items():
            lines = f"{count:,} lines are" if count > 1 else "1 line is"
            yield (
                f"{self._path}: {lines} left out, from line {self._first[kind]:,} on: "
                f"{self._SAID[kind]}"
            )


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its offset; a line that is far too long is only reported as present.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            offset = 0
            while content := file.readline(_LONGEST_LINE):
                size, whole = len(content), content
                while whole[-1:] != b"\n" and len(whole) == _LONGEST_LINE:
                    whole = file.readline(_LONGEST_LINE)
                    size, content = size + len(whole), b"?\n"
                yield offset, content
                offset += size
    except OSError as error:
        raise UserError(f"the answers {path} cannot be read: {error.strerror}") from error


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(line, dict) and "custom_id" in line):
        return None
    return line if line.get("response") or line.get("error") else None
