"""The rows of a Hugging Face data set: loaded with their images as they are stored, and read."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError, one_line
from data.images import ImageError, Status
from data.sources.cells import CellReader, Reach
from data.sources.record import Source

# Of the library's own tries, which together take longer than a decoding process is waited for.
_OPEN_TRIES = 3


class Rows:
    """Single images of a data set, by their row or by their place in its repository.

    A streamed data set is read from front to back: a row before the last one begins another pass.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._column = source.options["columns"]["image"]
        self._reach = make_reach(source.options)
        self._cells = CellReader(self._reach)
        self._rows: Any = None
        self._stream: Iterator[Any] | None = None
        self._position = 0

    def read(self, row: int) -> bytes:
        """The bytes of one image.

        Raises:
            UserError: the data set cannot be read.
            ImageError: the row holds no image.
        """
        if self._rows is None:
            self._rows = load_rows(self._source.options).select_columns([self._column])
        streaming = self._source.options["streaming"]
        cell = self._seek(row) if streaming else self._rows[row][self._column]
        return self._cells.read(cell)

    def read_entry(self, place: str) -> bytes:
        """The bytes of a file, or of a member of an archive, at its place in the repository.

        Raises:
            ImageError: it cannot be read.
        """
        from datasets import config

        config.STREAMING_OPEN_MAX_RETRIES = config.STREAMING_READ_MAX_RETRIES = _OPEN_TRIES
        return self._cells.read(self._reach.name_place(place))

    def close(self) -> None:
        """Close what was kept open."""
        self._cells.close()

    def _seek(self, row: int) -> Any:
        if self._stream is None or row < self._position:
            self._stream, self._position = iter(self._rows), 0
        cell = None
        try:
            while self._position <= row:
                cell = next(self._stream)[self._column]
                self._position += 1
        except StopIteration:
            message = "the data set has fewer rows than it had"
            raise ImageError(Status.DECODE_ERROR, message) from None
        except Exception as error:  # whatever the library's readers and the network raise
            self._stream = None
            reason = one_line(error)
            raise UserError(
                f"the data set {self._source.options['name']} cannot be read any more: {reason}"
            ) from error
        return cell


def stream_images(source: Source, wanted: Iterator[int]) -> Iterator[bytes | ImageError]:
    """The images of the rows `wanted`, in one pass over a streamed data set while they ascend.

    Raises:
        UserError: the data set cannot be read any more.
    """
    with contextlib.closing(Rows(source)) as rows:
        for row in wanted:
            try:
                yield rows.read(row)
            except ImageError as error:
                yield error


def load_rows(options: Mapping[str, Any]) -> Any:
    """The Dataset, or IterableDataset, of a source's options; its images are not decoded.

    Raises:
        UserError: it cannot be had.
    """
    import datasets

    _calm_libraries()
    name, saved = options["name"], is_saved(options["name"])
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            if saved == "split":
                loaded = datasets.load_from_disk(name)
            elif saved == "splits":
                loaded = datasets.load_from_disk(name)[options["split"]]
            else:
                loaded = datasets.load_dataset(
                    name,
                    options["config"],
                    split=options["split"],
                    streaming=options["streaming"],
                    revision=options.get("revision"),
                )
    except Exception as error:  # the library raises whatever its builders and its network raise
        raise UserError(f"the data set {name} cannot be loaded: {one_line(error)}") from error
    images = [
        column
        for column, feature in (loaded.features or {}).items()
        if isinstance(feature, datasets.Image)
    ]
    if images and isinstance(loaded, datasets.IterableDataset):
        # Not by its features alone: of a folder on the Hub the library decodes in threads.
        return loaded.decode(False)
    for column in images:
        loaded = loaded.cast_column(column, datasets.Image(decode=False))
    return loaded


def _calm_libraries() -> None:
    """Their bars of downloads and splits are for terminals."""
    if sys.stderr.isatty():
        return
    import datasets
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()


def is_saved(name: str) -> str | None:
    """Whether a folder was written by `save_to_disk`, as one "split" or as several "splits"."""
    if Path(name, "dataset_info.json").is_file() and Path(name, "state.json").is_file():
        return "split"
    return "splits" if Path(name, "dataset_dict.json").is_file() else None


def find_cache(name: str) -> Path:
    """Where huggingface_hub keeps what it fetched of a data set of the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))


def make_reach(options: Mapping[str, Any]) -> Reach:
    """What the rows may name: the data set's own folder, or its own repository."""
    name, revision = options["name"], options.get("revision")
    fetch = bool(options.get("fetch"))
    if Path(name).is_dir():
        return Reach(folders=(name,), fetch=fetch)
    folders: tuple[str, ...] = ()
    if not options["streaming"]:
        # What was fetched: links of one commit, to contents that lie beside.
        cache = find_cache(name)
        folders = (str(cache / "snapshots" / str(revision)), str(cache))
    return Reach(folders, f"hf://datasets/{name}", revision, fetch)
