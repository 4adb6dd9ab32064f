"""Where images come from: records in a fixed order, and the bytes of each.

This much imports nothing but the standard library, as a decoding process needs no more.
"""

from data.sources.record import ImageRecord, Listing, Source

__all__ = ["ImageRecord", "Listing", "Source"]
