"""The images of a run as they are now, and which of them a run that grows may add."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.settings.config import CaptionConfig
from captioner.settings.images import (
    describe_images,
    find_recorded_source,
    list_run_source,
    open_run_source,
)
from data.dense.run import PLAN_NAME
from data.sources import Listing, Source
from data.sources.records import Records

# Sources that may have more images when a run is taken up again; the others are told by content.
_GROWING = ("folder", "files", "urls")


@dataclass(frozen=True)
class FoundImages:
    """Where the images are, and all that there are now; None where nobody need look.

    `known` is the source without the files of images that have come since the run was begun;
    `grows` says that what is new is to be added.
    """

    source: Source
    known: Source
    named: dict[str, str | None]
    listing: Listing | None
    grows: bool
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> Records:
        """All that were listed."""
        return Records.collect(self.listing.records if self.listing else ())

    @property
    def key(self) -> str:
        """The column of the records by which an image is known again.

        What lies in an archive or a table may be called otherwise beside that of other files.
        """
        return "locator" if "files" in self.source.options else "sample_id"


def is_planned(directory: Path, previous: Mapping[str, Any] | None) -> bool:
    """Whether a run was begun and has its plan."""
    return previous is not None and (directory / PLAN_NAME).is_file()


def find_images(
    config: CaptionConfig,
    directory: Path,
    runs: Mapping[Path, Mapping[str, Any] | None],
    *,
    listed: bool,
) -> FoundImages:
    """Open the source as the run has it, and list it where that is needed.

    `runs` are run.json of each of its texts by its folder; `listed` as `prepare_caption` has it.
    """
    asked = config.source
    known, whole = open_run_source(
        asked.images, asked.options, directory=directory, recorded=find_recorded_source(runs)
    )
    planned = [is_planned(folder, previous) for folder, previous in runs.items()]
    grows = config.output.append and any(planned) and not listed
    source, notes = (whole, ()) if grows else (known, _describe_left_out(known, whole))
    # One of several takes the plan as it is.
    looked_at = source.kind in _GROWING and not config.placement.shared
    listing = None
    if not all(planned) or looked_at or grows:
        listing = list_run_source(source, asked.options, captions=asked.captions, exclude=directory)
    named = describe_images(asked.images, source)
    return FoundImages(source, known, named, listing, grows, notes)


def _describe_left_out(known: Source, whole: Source) -> tuple[str, ...]:
    count = len(whole.options.get("files", ())) - len(known.options.get("files", ()))
    if not count:
        return ()
    told = "not part of this run and are ignored: use --append to add the images in them"
    return (f"{count:,} files of --images are {told}",)
