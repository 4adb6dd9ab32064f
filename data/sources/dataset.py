"""A Hugging Face data set, on disk or from the Hub, whole or streamed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import UsageError, UserError
from data.files.hashes import stamp_files
from data.sources.cells import Reach, refuse_unasked, split_cell
from data.sources.columns import Columns, choose_columns, make_record
from data.sources.dataset_rows import find_cache, is_saved, load_rows, make_reach
from data.sources.record import ImageRecord, Listing, Source
from data.sources.records import Records

PREFIX = "hf:"


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

    Without a `revision`, that of the Hub's `main` is taken, and stays the source's.

    Raises:
        UserError: it cannot be had, an option does not fit, or none of its columns holds images.
    """
    local = Path(name).expanduser()
    options: dict[str, Any] = {
        "name": str(local.resolve()) if local.exists() else name,
        "config": config,
        "split": split or "train",
        "streaming": streaming,
        "fetch": wanted.image is not None,
        "revision": None if local.exists() else revision or _ask_revision(name),
    }
    _refuse_of_saved(options, split=split)
    columns = choose_columns(f"the data set {name}", _describe(load_rows(options)), wanted)
    options["columns"] = columns.to_dict()
    if local.is_dir():
        options["stamps"] = [stamp_files(sorted(p for p in local.rglob("*") if p.is_file()))]
    return Source("dataset", "", options)


def list_dataset(source: Source) -> Listing:
    """One record per row.

    An image that is a file of the data set goes by its place there; if the data set is streamed, it
    is read there by itself. Of other streamed rows the images are not read for this.

    Raises:
        UserError: the data set cannot be read, has no rows, or names addresses unasked.
    """
    columns, reach = Columns(**source.options["columns"]), make_reach(source.options)
    image, name = str(columns.image), source.options["name"]
    loaded = load_rows(source.options)
    first = _peek(loaded, image)
    refuse_unasked(f"the data set {name}", image, first, fetch=reach.fetch)
    placed = _find_place(first, reach) is not None
    wanted = [column for column in columns.named() if column != image or placed]
    if not wanted and source.options["streaming"]:
        # Some column has to be read to count the rows; pictures would be most of it.
        wanted = [next((c for c in loaded.column_names or () if c != image), image)]
    rows = loaded.select_columns(wanted) if wanted else ({} for _ in range(len(loaded)))
    records = Records.collect(
        _make_record(columns, dict(values), number, reach, source)
        for number, values in enumerate(rows)
    )
    if not records:
        raise UserError(f"the data set {name} has no rows")
    return Listing(records)


def _make_record(
    columns: Columns, values: dict[str, Any], number: int, reach: Reach, source: Source
) -> ImageRecord:
    place = _find_place(values.pop(str(columns.image), None), reach)
    name = f"{source.options['split']}/{number}" if place is None else place.replace("::", "/")
    locator = f"row:{number}".encode()
    if place is not None and source.options["streaming"]:
        locator = b"entry:" + os.fsencode(place)
    return make_record(columns, values, locator=locator, otherwise=name)


def _find_place(cell: Any, reach: Reach) -> str | None:
    content, path = split_cell(cell)
    return None if content is not None or path is None else reach.find_place(path)


def _peek(loaded: Any, column: str) -> Any:
    row = next(iter(loaded.select_columns([column])), None)
    return None if row is None else row[column]


def _refuse_of_saved(options: Mapping[str, Any], *, split: str | None) -> None:
    """`load_from_disk` has no use for these."""
    saved = is_saved(options["name"])
    given = {
        "--dataset-config": options["config"] is not None,
        "--streaming": options["streaming"],
        "--split": split is not None and saved == "split",
    }
    for option, is_given in given.items():
        if saved and is_given:
            raise UsageError(
                f"{option} does not go with {options['name']}, which save_to_disk has written"
            )


def _describe(loaded: Any) -> dict[str, str]:
    """What each column could be used for: image, bytes, text, texts, number or other."""
    import datasets

    features = loaded.features
    if features is None:
        # Streamed text files say nothing of their columns before they are read.
        import pyarrow as pa

        first: dict[str, Any] = next(iter(loaded), {})
        features = datasets.Features.from_arrow_schema(pa.Table.from_pylist([first]).schema)
    return {name: _describe_feature(feature) for name, feature in features.items()}


def _describe_feature(feature: Any) -> str:
    import datasets

    # A table that was written without the library has the parts of an image alone.
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
        return "image"
    if isinstance(feature, datasets.List | datasets.LargeList):
        inner = getattr(feature.feature, "dtype", "")
        return "texts" if inner in ("string", "large_string") else "other"
    if not isinstance(feature, datasets.Value):
        # A label's numbers name a class, not an image.
        return "other"
    if feature.dtype in ("string", "large_string"):
        return "text"
    if feature.dtype in ("binary", "large_binary"):
        return "bytes"
    return "number" if feature.dtype.startswith(("int", "uint", "float")) else "other"


def _ask_revision(name: str) -> str | None:
    """The commit of `main`: the Hub's, or that of what was fetched before."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception:
        # Offline, or no such data set, which loading it will say.
        known = find_cache(name) / "refs" / "main"
        return known.read_text().strip() if known.is_file() else None
