"""Image sources: records in a fixed order, and the bytes of each image.

This module only imports the standard library, since decoding processes need no more.
"""

from data.sources.record import ImageRecord, Listing, Source

__all__ = ["ImageRecord", "Listing", "Source"]
