"""A Hugging Face data set, on disk or from the Hub, whole or streamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.images import ImageError
from data.sources.columns import Columns, choose_columns, make_record
from data.sources.reading import read_cell
from data.sources.record import ImageRecord, Listing, Source
from data.sources.stamp import stamp_files
from data.status import Status

PREFIX = "hf:"


def open_dataset(
    name: str, *, config: str | None, split: str | None, streaming: bool, wanted: Columns
) -> Source:
    """A source of the rows of a data set: a name of the Hub, or a folder of this machine.

    Raises:
        UserError: it cannot be had, or none of its columns holds images.
    """
    local = Path(name).expanduser()
    options: dict[str, Any] = {
        "name": str(local.resolve()) if local.exists() else name,
        "config": config,
        "split": split or "train",
        "streaming": streaming,
    }
    loaded = _load(options)
    columns = choose_columns(f"the data set {name}", _describe(loaded), wanted)
    # Where the Hub's `main` stands now, so that a run taken up later reads the same rows.
    options["revision"] = None if local.exists() else _ask_revision(name)
    options["columns"] = columns.to_dict()
    if local.is_dir():
        options["stamps"] = [stamp_files(sorted(p for p in local.rglob("*") if p.is_file()))]
    return Source("dataset", "", options)


def list_dataset(source: Source) -> Listing:
    """One record per row. A streamed data set is read once for this, without its images where it
    is stored by columns."""
    columns = Columns(**source.options["columns"])
    loaded = _load(source.options)
    names = [name for name in columns.named() if name != columns.image]
    records: list[ImageRecord] = []
    if names or source.options["streaming"]:
        rows: Any = loaded.select_columns(names or [str(columns.image)])
        for number, values in enumerate(rows):
            records.append(_record(columns, values, number, source))
    else:
        records = [_record(columns, {}, number, source) for number in range(len(loaded))]
    if not records:
        raise UserError(f"the data set {source.options['name']} has no rows")
    return Listing(tuple(records))


class Rows:
    """Single images of a data set that lies on this machine, by their row."""

    def __init__(self, source: Source) -> None:
        column = source.options["columns"]["image"]
        self._rows = _load(source.options).select_columns([column])
        self._column = column
        self._folders = _list_folders(source)

    def read(self, row: int) -> bytes:
        """The bytes of one image. ImageError if the row holds none."""
        return read_cell(self._rows[row][self._column], folders=self._folders)


def stream_images(source: Source, wanted: Iterator[int]) -> Iterator[bytes | ImageError]:
    """The images of the rows `wanted`, in one pass over a streamed data set while they ascend.

    A row before the last one begins another pass.
    """
    column = source.options["columns"]["image"]
    rows = iter(_load(source.options).select_columns([column]))
    position, folders = 0, _list_folders(source)
    for row in wanted:
        if row < position:
            rows, position = iter(_load(source.options).select_columns([column])), 0
        try:
            while position < row:
                next(rows)
                position += 1
            cell = next(rows)[column]
            position += 1
        except StopIteration:
            yield ImageError(Status.DECODE_ERROR, "the data set has fewer rows than it had")
            continue
        try:
            yield read_cell(cell, folders=folders)
        except ImageError as error:
            yield error


def _list_folders(source: Source) -> list[str]:
    """Where files that rows name may lie: the data set's own folder, and the library's caches."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    places = [source.options["name"]] if Path(source.options["name"]).is_dir() else []
    return [*places, str(config.HF_DATASETS_CACHE), str(HF_HUB_CACHE)]


def _record(columns: Columns, values: dict[str, Any], number: int, source: Source) -> ImageRecord:
    place = f"row:{number}"
    name = f"{source.options['split']}/{number}"
    return make_record(columns, values, locator=place.encode(), otherwise=name)


def _load(options: Any) -> Any:
    """The Dataset, its images as bytes and not decoded."""
    import datasets

    name = options["name"]
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
            if Path(name, "dataset_info.json").is_file() and Path(name, "state.json").is_file():
                loaded = datasets.load_from_disk(name)
            elif Path(name, "dataset_dict.json").is_file():
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
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the data set {name} cannot be loaded: {reason}") from error
    for column, feature in (loaded.features or {}).items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
    return loaded


def _describe(loaded: Any) -> dict[str, str]:
    import datasets

    kinds = {}
    for name, feature in (loaded.features or dict.fromkeys(loaded.column_names or ())).items():
        kinds[name] = "other"
        # A table that was written without the library has the parts of an image alone.
        if isinstance(feature, datasets.Image) or (
            isinstance(feature, dict) and "bytes" in feature
        ):
            kinds[name] = "image"
        elif (
            isinstance(feature, datasets.List) and getattr(feature.feature, "dtype", "") == "string"
        ):
            kinds[name] = "texts"
        elif getattr(feature, "dtype", None) in ("string", "large_string"):
            kinds[name] = "text"
        elif getattr(feature, "dtype", None) in ("binary", "large_binary"):
            kinds[name] = "bytes"
    return kinds


def _ask_revision(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception:
        # Offline, from the cache: there is only one then.
        return None
