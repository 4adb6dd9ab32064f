"""The current images of a run's source, and those that a growing run can add."""

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

# Sources that may have more images when a run is resumed; others are identified by content.
_GROWING = ("folder", "files", "urls")


@dataclass(frozen=True)
class FoundImages:
    """The source, and all its current images; None if they were not listed.

    `known` is the source without files that were added since the run started; `grows` means that
    new images are to be added.
    """

    source: Source
    known: Source
    named: dict[str, str | None]
    listing: Listing | None
    grows: bool
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> Records:
        """All listed records."""
        return Records.collect(self.listing.records if self.listing else ())

    @property
    def key(self) -> str:
        """The column of the records that identifies images.

        Images in an archive or table may have different names if there are other files.
        """
        return "locator" if "files" in self.source.options else "sample_id"


def is_planned(directory: Path, previous: Mapping[str, Any] | None) -> bool:
    """Whether a run exists and has a plan."""
    return previous is not None and (directory / PLAN_NAME).is_file()


def find_images(
    config: CaptionConfig,
    directory: Path,
    runs: Mapping[Path, Mapping[str, Any] | None],
    *,
    listed: bool,
) -> FoundImages:
    """Open the source as recorded in the run, and list it if necessary.

    `runs` has the run.json of each text by folder; `listed` is as in `prepare_caption`.
    """
    asked = config.source
    known, whole = open_run_source(
        asked.images, asked.options, directory=directory, recorded=find_recorded_source(runs)
    )
    planned = [is_planned(folder, previous) for folder, previous in runs.items()]
    grows = config.output.append and any(planned) and not listed
    source, notes = (whole, ()) if grows else (known, _describe_left_out(known, whole))
    # One of several jobs uses the existing plan.
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
