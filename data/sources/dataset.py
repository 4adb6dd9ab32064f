"""Hugging Face data sets, on disk or from the Hub, complete or streamed: records and images."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UsageError, UserError, one_line
from data.files.hashes import stamp_folder
from data.images import ImageError, Status
from data.sources.cells import AllowedPlaces, CellReader, refuse_unasked, split_cell
from data.sources.columns import Columns, choose_columns, make_record
from data.sources.download import WebAddress
from data.sources.record import ImageRecord, Listing, Source, keep_typed
from data.sources.records import Records

PREFIX = "hf:"
# The library's own retries take longer than the timeout of a decoding process.
_OPEN_TRIES = 3


def open_dataset(
    name: str,
    *,
    config: str | None,
    split: str | None,
    streaming: bool,
    wanted: Columns,
    revision: str | None = None,
) -> Source:
    """A source of the rows of a data set: a name of the Hub, or a folder of this machine.

    Without a `revision`, the current commit of `main` on the Hub is used and recorded.

    Raises:
        UserError: it is not available, an option does not apply, or no column contains images.
    """
    local = Path(name).expanduser()
    options: dict[str, Any] = {
        "name": str(keep_typed(local)) if local.exists() else name,
        "config": config,
        "split": split or "train",
        "streaming": streaming,
        "fetch": wanted.image is not None,
        "revision": None if local.exists() else revision or _ask_revision(name),
    }
    _refuse_of_saved(options, split=split)
    columns = choose_columns(f"the data set {name}", describe_rows(load_rows(options)), wanted)
    options["columns"] = columns.to_dict()
    if local.is_dir():
        options["stamps"] = [stamp_folder(local)]
    return Source("dataset", "", options)


def list_dataset(source: Source, *, by_place: bool = False) -> Listing:
    """One record per row; `by_place` puts split and row before names that are not unique.

    An image that is a file of the data set is named by its path there; if the data set is streamed
    or a folder, the file is read directly. Other streamed images are not read for the listing.

    Raises:
        UserError: the data set cannot be read, has no rows, or refers to URLs in a column that the
            user did not name.
    """
    columns, allowed = Columns(**source.options["columns"]), find_allowed_places(source.options)
    image, name = str(columns.image), source.options["name"]
    loaded = load_rows(source.options)
    first = _peek(loaded, image)
    refuse_unasked(f"the data set {name}", image, first, fetch=allowed.fetch)
    placed = _find_place(first, allowed) is not None
    wanted = [column for column in columns.named() if column != image or placed]
    if not wanted and source.options["streaming"]:
        # Some column has to be read to count the rows; images would be most of the data.
        wanted = [next((c for c in loaded.column_names or () if c != image), image)]
    rows = loaded.select_columns(wanted) if wanted else ({} for _ in range(len(loaded)))
    records = Records.collect(
        _make_record(columns, dict(values), number, allowed, source, by_place)
        for number, values in enumerate(rows)
    )
    if not records:
        raise UserError(f"the data set {name} has no rows")
    return Listing(records)


def _make_record(
    columns: Columns,
    values: dict[str, Any],
    number: int,
    allowed: AllowedPlaces,
    source: Source,
    by_place: bool,
) -> ImageRecord:
    file = _find_place(values.pop(str(columns.image), None), allowed)
    place = f"{source.options['split']}/{number}"
    if file is not None and not by_place:
        place = file.replace("::", "/")
    locator = _name_row(number, file, allowed, source)
    return make_record(columns, values, locator=locator, place=place, by_place=by_place)


def read_dataset(source: Source, names: Sequence[str]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The locators of each row with its values in these columns, in order; UserError otherwise."""
    image, allowed = source.options["columns"]["image"], find_allowed_places(source.options)
    loaded = load_rows(source.options)
    placed = _find_place(_peek(loaded, image), allowed) is not None
    rows = loaded.select_columns(list({*names, *([image] if placed else [])}))
    for number, values in enumerate(rows):
        file = _find_place(values[image], allowed) if placed else None
        # Earlier plans can have the row of an image that is now found by its file.
        for locator in {_name_row(number, place, allowed, source) for place in (None, file)}:
            yield locator, dict(values)


def _name_row(number: int, file: str | None, allowed: AllowedPlaces, source: Source) -> bytes:
    if file is not None and (source.options["streaming"] or allowed.repository is None):
        # Read directly; files fetched from the Hub are found in the library's cache by row.
        return b"entry:" + os.fsencode(file)
    return f"row:{number}".encode()


def _find_place(cell: Any, allowed: AllowedPlaces) -> str | None:
    content, path = split_cell(cell)
    return None if content is not None or path is None else allowed.find_place(path)


def _peek(loaded: Any, column: str) -> Any:
    row = next(iter(loaded.select_columns([column])), None)
    return None if row is None else row[column]


def _refuse_of_saved(options: Mapping[str, Any], *, split: str | None) -> None:
    """`load_from_disk` does not accept these."""
    saved = is_saved(options["name"])
    given = {
        "--dataset-config": options["config"] is not None,
        "--streaming": options["streaming"],
        "--split": split is not None and saved == "split",
    }
    for option, is_given in given.items():
        if saved and is_given:
            raise UsageError(
                f"{option} cannot be used with {options['name']}, which was written by save_to_disk"
            )


def describe_rows(loaded: Any) -> dict[str, str]:
    """What each column could be used for: image, bytes, text, texts, number or other."""
    import datasets

    features = loaded.features
    if features is None:
        # The columns of streamed text files are unknown before they are read.
        import pyarrow as pa

        first: dict[str, Any] = next(iter(loaded), {})
        features = datasets.Features.from_arrow_schema(pa.Table.from_pylist([first]).schema)
    return {name: _describe_feature(feature) for name, feature in features.items()}


def _describe_feature(feature: Any) -> str:
    import datasets

    # A table that was written without the library only has the parts of an image.
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
        return "image"
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = getattr(feature.feature, "dtype", "")
        return "texts" if inner in ("string", "large_string") else "other"
    if not isinstance(feature, datasets.Value):
        # A label's numbers denote a class, not an image.
        return "other"
    if feature.dtype in ("string", "large_string"):
        return "text"
    if feature.dtype in ("binary", "large_binary"):
        return "bytes"
    return "number" if feature.dtype.startswith(("int", "uint", "float")) else "other"


def _ask_revision(name: str) -> str | None:
    """The commit of `main` on the Hub, or in the cache."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception:
        # Offline, or no such data set; loading it will report that.
        known = find_cache(name) / "refs" / "main"
        return known.read_text().strip() if known.is_file() else None


class Rows:
    """Single images of a data set, by row or by path in its repository.

    A streamed data set is read sequentially: going back to an earlier row starts another pass.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._column = source.options["columns"]["image"]
        self._allowed = find_allowed_places(source.options)
        self._cells = CellReader(self._allowed)
        self._rows: Any = None
        self._stream: Iterator[Any] | None = None
        self._position = 0

    def find(self, row: int) -> bytes | WebAddress:
        """The bytes of one image, or where they can be fetched.

        Raises:
            UserError: the data set cannot be read.
            ImageError: the row has no image.
        """
        if self._rows is None:
            self._rows = load_rows(self._source.options).select_columns([self._column])
        try:
            streaming = self._source.options["streaming"]
            cell = self._seek(row) if streaming else self._rows[row][self._column]
        except (StopIteration, IndexError):
            message = "the data set has fewer rows than before"
            raise ImageError(Status.DECODE_ERROR, message) from None
        except Exception as error:  # whatever the library's readers and the network raise
            self._stream = None
            reason = one_line(error)
            raise UserError(
                f"the data set {self._source.options['name']} can no longer be read: {reason}"
            ) from error
        return self._cells.find(cell)

    def read_entry(self, place: str) -> bytes | WebAddress:
        """The bytes of a file, or of a member of an archive, by its path in the repository.

        Raises:
            ImageError: it cannot be read.
        """
        from datasets import config

        config.STREAMING_OPEN_MAX_RETRIES = config.STREAMING_READ_MAX_RETRIES = _OPEN_TRIES
        return self._cells.find(self._allowed.name_place(place))

    def close(self) -> None:
        """Close what was kept open."""
        self._cells.close()

    def _seek(self, row: int) -> Any:
        if self._stream is None or row < self._position:
            self._stream, self._position = iter(self._rows), 0
        cell = None
        while self._position <= row:
            cell = next(self._stream)[self._column]
            self._position += 1
        return cell


def load_rows(options: Mapping[str, Any]) -> Any:
    """The Dataset, or IterableDataset, of a source's options; its images are not decoded.

    Raises:
        UserError: it is not available.
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
        # Not through the features alone: the library decodes folders of the Hub in threads.
        return loaded.decode(False)
    for column in images:
        loaded = loaded.cast_column(column, datasets.Image(decode=False))
    return loaded


def _calm_libraries() -> None:
    """Disable their progress bars of downloads and splits."""
    if sys.stderr.isatty():
        return
    import datasets
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()


def refuse_inside(images: Path | str, out: Path) -> None:
    """UserError if what is written to `out` would be taken for files of the data set `images`."""
    folder = Path(str(images).removeprefix(PREFIX)).expanduser()
    local = str(images).startswith(PREFIX) and folder.is_dir()
    if local and out.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"--out {out} is inside the data set {images}, so it would become part of it: use an "
            "--out elsewhere"
        )


def is_saved(name: str) -> str | None:
    """Whether a folder was written by `save_to_disk`, as one "split" or as several "splits"."""
    if Path(name, "dataset_info.json").is_file() and Path(name, "state.json").is_file():
        return "split"
    return "splits" if Path(name, "dataset_dict.json").is_file() else None


def find_cache(name: str) -> Path:
    """The folder in which huggingface_hub caches a data set of the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))


def find_allowed_places(options: Mapping[str, Any]) -> AllowedPlaces:
    """What the rows may refer to: the data set's own folder, or its own repository."""
    name, revision = options["name"], options.get("revision")
    fetch = bool(options.get("fetch"))
    if Path(name).is_dir():
        return AllowedPlaces(folders=(name,), fetch=fetch)
    folders: tuple[str, ...] = ()
    if not options["streaming"]:
        # The cache: the links of one commit, and the blobs next to them.
        cache = find_cache(name)
        folders = (str(cache / "snapshots" / str(revision)), str(cache))
    return AllowedPlaces(folders, f"hf://datasets/{name}", revision, fetch)
