"""Embedding a source of images or a list of texts into a Parquet file, part by part."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data.errors import UserError
from data.files.locks import keep_others_out
from data.images import ImageError
from data.sources import ImageRecord, Source
from data.tables.texts import TextRecord
from vse.search.index import Index
from vse.search.parts import Part, PartFolder, make_table, refuse_other
from vse.search.schema import IndexInfo

if TYPE_CHECKING:
    from vse.embedders.embedder import Embedder
    from vse.search.images import SourceImages

# After this many unreadable images in a row, or if none can be read, the source is at fault.
_MANY = 64

Progress = Callable[[int], None]


@dataclass(frozen=True)
class BuildResult:
    """The finished file, and how many items an earlier run had already embedded."""

    index: Index
    resumed: int
    already: bool

    @property
    def rows(self) -> int:
        return len(self.index)

    @property
    def left_out(self) -> tuple[Mapping[str, str], ...]:
        """The items without a row, each with the reason."""
        return self.index.left_out


class SourceGoneError(UserError):
    """The images from the item `start` on cannot be read."""

    def __init__(self, message: str, start: int) -> None:
        super().__init__(message)
        self.start = start


class Encoder(Protocol):
    """Embeds a range of items into rows."""

    def encode(self, start: int, stop: int, *, on_item: Progress) -> Part:
        """Embed the items `start` to `stop`. Called in order.

        Raises:
            SourceGoneError: so many of the last items are unreadable that the source must be.
        """
        ...

    def close(self) -> None: ...


def hash_listing(items: Iterable[tuple[object, ...]]) -> str:
    """One hash of the contents of a source, in order."""
    content = hashlib.sha256()
    for item in items:
        content.update(json.dumps(item, default=repr).encode() + b"\n")
    return content.hexdigest()


def list_images(records: Sequence[ImageRecord]) -> str:
    """The hash of some images."""
    return hash_listing((record.sample_id, record.address) for record in records)


def record_source(source: Source, records: Sequence[ImageRecord]) -> dict[str, Any]:
    """The source for the metadata; images that are files get a stamp of their sizes."""
    recorded = source.to_dict()
    if source.kind in ("folder", "files"):
        root = Path(source.root)
        # Not of their times, which copies lose.
        sizes = ((_read_size(record.locate(root)),) for record in records)
        recorded["options"]["stamps"] = [hash_listing(sizes)]
    return recorded


def _read_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        # It is left out, unless it is there the next time.
        return None


def list_texts(records: Sequence[TextRecord]) -> str:
    """The hash of some texts."""
    return hash_listing((record.id, record.text, record.file_name) for record in records)


def find_finished(target: Path, info: IndexInfo) -> BuildResult | None:
    """The result of an earlier run with the same settings, or None.

    Raises:
        UserError: the file or its parts contain something else.
    """
    PartFolder(target, info).check()
    if not target.exists():
        return None
    try:
        found = Index(target)
    except UserError as error:
        raise UserError(f"{target} is there and is no index: use another --out") from error
    refuse_other(found.info, info, target)
    return BuildResult(found, resumed=len(found) + len(found.left_out), already=True)


def build_index(
    target: Path,
    info: IndexInfo,
    make_encoder: Callable[[], Encoder],
    *,
    total: int,
    part_size: int,
    on_item: Progress,
    warn: Callable[[str], None],
) -> BuildResult:
    """Embed `total` items, `part_size` at a time; finished parts are reused.

    Args:
        make_encoder: called if anything is left to do; loads the model.
        on_item: called with the number of finished items.
        warn: called with warnings.

    Raises:
        UserError: another process is writing the file, the disk is full, the source is gone, or the
            model returns NaN.
    """
    folder = PartFolder(target, info)
    finished = find_finished(target, info)
    if finished is not None:
        # Killed between writing the file and removing its parts.
        shutil.rmtree(folder.path, ignore_errors=True)
        return finished
    with keep_others_out(folder.path, warn=warn, doing="embedding"):
        done = 0
        for part in folder.read():
            done = part.stop
        resumed = done
        on_item(done)
        encoder = make_encoder() if done < total else None
        try:
            while encoder is not None and done < total:
                stop = min(done + part_size, total)
                folder.write(encoder.encode(done, stop, on_item=on_item))
                done = stop
        except SourceGoneError as gone:
            # The images were intact where the last parts end: the next run reads them again.
            folder.drop_from(gone.start)
            raise
        finally:
            if encoder is not None:
                encoder.close()
        folder.finish(total)
    return BuildResult(Index(target), resumed=resumed, already=False)


class ImageEncoder:
    """Embeds the images of a source; broken ones are left out and reported."""

    def __init__(
        self,
        embedder: Embedder,
        info: IndexInfo,
        source: Source,
        records: Sequence[ImageRecord],
        *,
        batch_size: int,
        workers: int,
    ) -> None:
        from vse.search.images import SourceImages

        self._embedder = embedder
        self._info = info
        self._records = records
        self._batch_size = batch_size
        self._unreadable_from: int | None = None  # to the last image so far, if it was unreadable
        self._images: SourceImages = SourceImages(
            source, records, px=embedder.px, antialias=embedder.antialias, workers=workers
        )

    def encode(self, start: int, stop: int, *, on_item: Progress) -> Part:
        """Embed the images of the records `start` to `stop`."""
        pixels = self._images.take(start, stop, on_image=on_item)
        vectors = self._embedder.encode_pixels(pixels, batch_size=self._batch_size)
        records = self._records[start:stop]
        self._check_source(start, stop, pixels.broken)
        kept = [number for number in range(len(records)) if number not in pixels.broken]
        left_out = tuple(
            {
                "id": records[number].sample_id,
                "file_name": records[number].file_name,
                "error": str(reason),
            }
            for number, reason in sorted(pixels.broken.items())
        )
        rows = [records[number] for number in kept]
        columns: dict[str, list[Any]] = {
            "id": [record.sample_id for record in rows],
            "image_id": [record.image_id for record in rows],
            "file_name": [record.file_name for record in rows],
            "locator": [record.locator for record in rows],
        }
        return Part(start, stop, make_table(self._info, columns, _check(vectors[kept])), left_out)

    def _check_source(self, start: int, stop: int, broken: Mapping[int, ImageError]) -> None:
        """SourceGoneError after too many unreadable images in a row, also across parts.

        Damaged images are no sign of it if an image of the part was read after them.
        """
        for number in range(start, stop):
            if number - start not in broken:
                self._unreadable_from = None
                continue
            if self._unreadable_from is None:
                self._unreadable_from = number
            first, error = self._unreadable_from, broken[number - start]
            count = number + 1 - first
            last = number + 1 == stop or _is_out_of_reach(error)
            if count >= min(_MANY, len(self._records)) and last:
                raise SourceGoneError(
                    f"none of {count:,} images starting at {self._records[first].file_name} can be "
                    f"read ({error}): check the disk or the network, or remove these images; "
                    "finished parts are kept",
                    first,
                )

    def close(self) -> None:
        """End the threads."""
        self._images.close()


def _is_out_of_reach(error: BaseException | None) -> bool:
    """Whether an image could not be read from the disk or its archive, rather than decoded."""
    while error is not None:
        # A UserError is one of the whole archive or server.
        if isinstance(error, UserError) or getattr(error, "errno", None) is not None:
            return True
        error = error.__cause__
    return False


class TextEncoder:
    """Embeds texts; rows without a text are left out and reported."""

    def __init__(
        self,
        embedder: Embedder,
        info: IndexInfo,
        records: Sequence[TextRecord],
        *,
        batch_size: int,
    ) -> None:
        self._embedder = embedder
        self._info = info
        self._records = records
        self._batch_size = batch_size

    def encode(self, start: int, stop: int, *, on_item: Progress) -> Part:
        """Embed the texts `start` to `stop`."""
        records = self._records[start:stop]
        rows = [record for record in records if (record.text or "").strip()]
        texts = [record.text or "" for record in rows]
        store = self._embedder.tokenize(texts)
        vectors = self._embedder.encode_tokens(store, batch_size=self._batch_size)
        columns: dict[str, list[Any]] = {
            "id": [record.id for record in rows],
            "image_id": [record.image_id for record in rows],
            "file_name": [record.file_name for record in rows],
            "text": texts,
        }
        left_out = tuple(
            {"id": record.id, "file_name": record.file_name or "", "error": "no text"}
            for record in records
            if not (record.text or "").strip()
        )
        on_item(stop)
        table = make_table(self._info, columns, _check(vectors))
        return Part(start, stop, table, left_out, store.cut)

    def close(self) -> None:
        """Nothing to close."""


def _check(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise UserError(
            "the model produces embeddings with NaN or infinity: train it again, or use --dtype "
            "float32"
        )
    return vectors
