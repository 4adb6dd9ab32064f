"""Dense text for images: `caption(...)` is `d2s caption` as a function."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioner.run import CaptionResult, caption

__all__ = ["CaptionResult", "caption"]


def __getattr__(name: str) -> Any:
    # Lazily: a decoding process imports this package and needs neither Parquet nor the rest.
    if name in __all__:
        from captioner import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
