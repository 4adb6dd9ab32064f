"""The folder of requests and answers: `requests-00001.jsonl`, and any other .jsonl files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from captioner.engine.batch.request_id import RequestId
from data.errors import UserError
from data.files.atomic import explain_full_disk, sync_file, sync_folder
from data.files.temporaries import name_temporary, sweep_once

# OpenAI's limits of one file; vLLM has none.
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
_NAME = re.compile(r"requests-([0-9]{5,9})\.jsonl")
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([^"]*)"')
# It comes first in our lines, which can be megabytes long.
_HEAD = 256


def list_requests(folder: Path) -> dict[int, Path]:
    """The request files by number."""
    named = ((_NAME.fullmatch(path.name), path) for path in _list_lines(folder))
    return {int(found[1]): path for found, path in named if found}


def list_answers(folder: Path) -> list[Path]:
    """All other .jsonl files, by name."""
    return [path for path in _list_lines(folder) if not _NAME.fullmatch(path.name)]


def read_request_ids(path: Path) -> Iterator[RequestId]:
    """The ids in a request file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                found = _CUSTOM_ID.search(line, 0, _HEAD)
                asked = found and RequestId.parse(found[1].decode("utf-8", "replace"))
                if asked:
                    yield asked
    except OSError as error:
        raise UserError(f"the requests {path} cannot be read: {error.strerror}") from error


def _list_lines(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".jsonl"))
    except OSError as error:
        raise UserError(f"--batch-file {folder} cannot be read: {error.strerror}") from error
    paths = (folder / name for name in names if not name.startswith("."))
    return [path for path in paths if path.is_file()]


class RequestFiles:
    """Writes request files; each gets its name when it is full, or at the end.

    A file that was not finished because the process was killed leaves nothing behind. Other runs
    may write to the folder at the same time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        first: int,
        head: Mapping[str, dict[str, Any]],
        on_file: Callable[[Path, int], None],
        limits: tuple[int, int] = (MOST_REQUESTS, MOST_BYTES),
    ) -> None:
        """`head` are request bodies, by name, with which every file begins.

        `first` numbers the first file; `on_file` is called for each finished file with its number
        of requests, without the head. `limits` are requests and bytes.
        """
        self._folder = folder
        self._run = run
        self._number = first - 1
        self._head = head
        self._on_file = on_file
        self._most, self._most_bytes = limits
        self._file: BinaryIO | None = None
        self._temporary = Path()
        self._count = self._size = 0

    def add(self, text: str, image: str, body: dict[str, Any]) -> None:
        """Write a request; `text` and `image` as in its `RequestId`.

        Raises:
            UserError: the disk is full; finished files stay.
        """
        try:
            with explain_full_disk(self._path):
                line = self._encode(text, image, body)
                if self._file is not None and not self._has_room(len(line)):
                    self.finish()
                if self._file is None:
                    self._begin()
                    line = self._encode(text, image, body)
                self._write(line)
        except BaseException:
            self.discard()
            raise

    def finish(self) -> None:
        """Give the current file its name, if there is one.

        Raises:
            UserError: the disk is full.
        """
        if self._file is None:
            return
        try:
            with explain_full_disk(self._path):
                self._file.close()
                self._publish()
                sync_folder(self._folder)
        except BaseException:
            self.discard()
            raise
        self._file = None
        self._on_file(self._path, self._count - len(self._head))

    def discard(self) -> None:
        """Drop the current file."""
        if self._file is not None:
            self._temporary.unlink(missing_ok=True)
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:
                # Its unwritten data is not needed.
                return

    @property
    def _path(self) -> Path:
        return self._folder / f"requests-{self._number:05d}.jsonl"

    @property
    def _prefix(self) -> bytes:
        """The beginning of the ids in the current file."""
        return RequestId(self._run, self._number, "").prefix.encode()

    def _has_room(self, size: int) -> bool:
        return self._count < self._most and self._size + size <= self._most_bytes

    def _publish(self) -> None:
        sync_file(self._temporary)
        try:
            _place(self._temporary, self._path)
        except FileExistsError:
            # Another run has taken the number meanwhile.
            self._renumber()
            self._publish()

    def _renumber(self) -> None:
        """Rewrite the current file with the next free number in its ids."""
        before, old = self._prefix, self._temporary
        self._number = self._find_free()
        self._temporary = name_temporary(self._path)
        try:
            with old.open("rb") as lines, self._temporary.open("wb") as file:
                file.writelines(line.replace(before, self._prefix, 1) for line in lines)
        finally:
            old.unlink()

    def _find_free(self) -> int:
        return max([self._number, *list_requests(self._folder)]) + 1

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number = self._find_free()
        sweep_once(self._folder)
        self._temporary = name_temporary(self._path)
        self._file = self._temporary.open("wb")
        self._count = self._size = 0
        for text, body in self._head.items():
            self._write(self._encode(text, None, body))

    def _encode(self, text: str, image: str | None, body: dict[str, Any]) -> bytes:
        asked = RequestId(self._run, self._number, text, *([] if image is None else [image]))
        line = {
            "custom_id": str(asked),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
        return json.dumps(line).encode() + b"\n"

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        self._file.write(line)
        self._count += 1
        self._size += len(line)


def _place(temporary: Path, path: Path) -> None:
    """Rename a file to a name that must be free; FileExistsError if it is not."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links: not in one step, so a kill in between leaves an empty file.
        path.touch(exist_ok=False)
        try:
            os.replace(temporary, path)
        except BaseException:
            path.unlink()
            raise
    else:
        temporary.unlink()
