"""Where images come from: records in a fixed order, and the bytes of each."""

from data.sources.folder import IMAGE_SUFFIXES, list_folder
from data.sources.record import ImageRecord, Listing, Source

__all__ = ["IMAGE_SUFFIXES", "ImageRecord", "Listing", "Source", "list_folder"]
