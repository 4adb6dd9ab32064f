"""Finding the input of a training run that the user does not name; every choice is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.dense.run import RUN_NAME, read_run, require_source
from data.errors import UserError
from data.escaping import shown
from data.sparse.captions import find_captions, find_captions_if_any
from data.sparse.released import has_dense_files
from vse.samples.named_texts import TEXTS_NAME, first_run, list_runs

DENSE = Path("dense")


@dataclass(frozen=True)
class DataPaths:
    """The input of a run. `dense` is None for the baseline without dense text.

    `captioned_by` is then the captioning run of these images, if there is one: it records which
    files are broken. `captions` is None without human captions: the captioning run then also
    provides the sparse text. With `dense_with_captions`, the caption source also has the dense
    text, like the released code's files.
    """

    images: Path
    captions: Path | None
    dense: Path | None
    captioned_by: Path | None = None
    dense_with_captions: bool = False
    captions_named: bool = False  # by the user

    @property
    def texts(self) -> Path | None:
        """The folder of the captioner's texts."""
        return self.dense if self.dense is not None else self.captioned_by


def find_input(
    *,
    images: Path | None,
    captions: Path | None,
    dense: Path | None,
    wants_dense: bool,
    wants_captions: bool = True,
    before: Mapping[str, Path | None] | None = None,
) -> DataPaths:
    """Fill in missing paths: dense text under dense/, images from its run.json, captions there.

    A caption source with dense text of its own, if it is named, needs none from elsewhere.

    The baseline learns where the images are from the dense text's run.json too, if there is one,
    and which of them cannot be read, but reads no dense text.

    Args:
        wants_captions: human captions are required; otherwise, dense text alone is enough.
        before: images, captions and dense of stage 1, each None if it had none or they are gone:
            used for what the user does not name, unless the user names images, or dense text of
            other images. Captions are then not searched for, since others could have other splits.

    Raises:
        UserError: none or several candidates; names the option to use.
    """
    named = captions is not None
    continues = images is None and before is not None and not _is_of_others(dense, before)
    if continues:
        assert before is not None
        images = before["images"]
        captions = captions or before["captions"]
        dense = dense or before["dense"]
    known = captions is not None
    if images is not None and not images.is_dir():
        raise _no_images(images)
    if captions is None and images is not None and not continues:
        captions = find_captions_if_any(images)
    together = wants_dense and dense is None and captions is not None and has_dense_files(captions)
    if together and not known:
        _refuse_second_dense(captions)
    if dense is None and wants_dense and not together:
        dense = find_dense()
    if images is None:
        images = images_of(dense if dense is not None else find_dense(option="--images"))
    if not images.is_dir():
        raise _no_images(images)
    if captions is None and not continues:
        captions = find_captions_if_any(images)
    by = None if wants_dense else find_run_of(images)
    found = DataPaths(images, captions, dense if wants_dense else None, by, together, named)
    if captions is None and (wants_captions or found.texts is None):
        find_captions(images)
    return found


def _is_of_others(dense: Path | None, before: Mapping[str, Path | None]) -> bool:
    """Whether dense text that the user named is of other images than those of stage 1."""
    images = None if dense is None else _recorded_images(dense)
    own = before["dense"]
    known = {own and _recorded_images(own), before["images"] and before["images"].resolve()}
    return images is not None and known != {None} and images not in known


def _recorded_images(dense: Path) -> Path | None:
    try:
        return images_of(dense).resolve()
    except UserError:
        return None


def _no_images(images: Path) -> UserError:
    return UserError(f"the image folder {images} does not exist: specify it with --images")


def _refuse_second_dense(captions: Path | None) -> None:
    try:
        other = find_dense()
    except UserError:
        return
    raise UserError(
        f"dense text both in {captions} and in {other}: specify one with --captions {captions} or "
        f"--dense {other}"
    )


def find_dense(*, option: str = "--dense") -> Path:
    """The only captioning run under dense/, or the only folder of several texts."""
    places = [*sorted(DENSE.glob("*/")), DENSE]
    found = [place for place in places if (place / RUN_NAME).is_file()]
    # Folders in dense/ belong to different data sets, unless a list there says otherwise.
    many = [place for place in places if place not in found and list_runs(place)]
    found += [place for place in many if place != DENSE or (place / TEXTS_NAME).is_file()]
    if len(found) == 1:
        return found[0]
    if not found:
        hint = "specify a folder with --dense, or write one with `d2s caption`"
        if option == "--images":
            hint = "specify the image folder with --images"
        raise UserError(f"no dense text under {DENSE}/: {hint}")
    listed = ", ".join(str(path) for path in found)
    raise UserError(f"{len(found)} folders with dense text ({listed}): specify one with {option}")


def images_of(dense: Path) -> Path:
    """The image folder recorded by a captioning run, absolute or relative to the current folder."""
    dense = first_run(dense)
    where = dense / RUN_NAME
    source = require_source(read_run(dense), where=where, images=None)
    if source.kind not in ("folder", "files"):
        raise UserError(
            f"the images of {where} are not in a folder: specify a folder with --images"
        )
    return Path(shown(Path(source.root)))


def find_run_of(images: Path) -> Path | None:
    """The only captioning run under dense/, if it has these images."""
    try:
        dense = find_dense()
    except UserError:
        return None
    found = _recorded_images(dense)
    return dense if found == images.resolve() else None
