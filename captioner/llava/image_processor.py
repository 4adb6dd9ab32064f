"""Reading a model's image processor: shape, size and color of images."""

from typing import Any

from PIL import Image

from captioner.llava.preprocess import Preprocessing
from captioner.llava.weights import Weights
from data.errors import UserError

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
# Models that see photos as squares, with the way in which they were trained to make them square.
_SQUARES = {"llava": "pad", "gemma3": "squash", "paligemma": "squash"}
_TILED_LLAVAS = ("v1.6", "next", "onevision")
# Image tokens for models of any resolution (Qwen-VL: up to 16,384 according to its files).
_MOST_PATCHES = 1280


def choose_preprocessing(
    weights: Weights, *, aspect: str | None, max_image_pixels: int
) -> Preprocessing:
    """The model's size and padding color, and the requested aspect or the one of its training.

    Raises:
        UserError: an aspect that this model does not support.
    """
    config = weights.read_json("config.json")
    model_type = config.get("model_type")
    processor = _read_image_processor(weights)
    size = _find_size(processor) if model_type in _SQUARES else None
    if size is None and aspect not in (None, "keep"):
        raise UserError(f"{weights.model} ({model_type}) splits images itself: omit --aspect")
    mean = processor.get("image_mean") or _CLIP_MEAN
    red, green, blue = (int(255 * channel) for channel in mean)
    chosen = "keep" if size is None else aspect or _SQUARES[str(model_type)]
    return Preprocessing(
        aspect=chosen,  # type: ignore[arg-type]
        size=None if chosen == "keep" else size,
        fill=(red, green, blue),
        max_image_pixels=max_image_pixels,
        resample=Image.Resampling(processor.get("resample") or 3).name.lower(),
        grids=_read_grids(config, processor) if size is None else (),
        max_pixels=_find_most_pixels(processor) if size is None else None,
        longest_side=_find_longest_side(processor) if size is None else None,
    )


def choose_unread(name: str, *, aspect: str | None, max_image_pixels: int) -> Preprocessing:
    """Preprocessing by name only: LLaVA-1.5 sees a square, others the whole photo."""
    whole = "llava" not in name.lower() or any(kind in name.lower() for kind in _TILED_LLAVAS)
    chosen = aspect or ("keep" if whole else "pad")
    return Preprocessing(
        aspect=chosen,  # type: ignore[arg-type]
        size=None if chosen == "keep" else Preprocessing.size,
        max_image_pixels=max_image_pixels,
    )


def _read_image_processor(weights: Weights) -> dict[str, Any]:
    """transformers 5 writes one processor_config.json, older versions preprocessor_config.json."""
    nested = weights.read_json("processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else weights.read_json("preprocessor_config.json")


def _read_grids(config: dict[str, Any], processor: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """(W, H) of each; the files say (H, W)."""
    side, most = _find_size(processor), processor.get("max_patches")
    if side is not None and most:
        # InternVL: any grid with up to this many tiles.
        counts = range(1, int(most) + 1)
        return tuple((w * side, h * side) for w in counts for h in counts if w * h <= most)
    found = processor.get("image_grid_pinpoints") or config.get("image_grid_pinpoints") or ()
    return tuple((int(width), int(height)) for height, width in found)


def _find_size(processor: dict[str, Any]) -> int | None:
    for key in ("crop_size", "size"):
        value = processor.get(key)
        if isinstance(value, int):
            return value
        if isinstance(value, dict):
            for name in ("height", "shortest_edge"):
                if isinstance(value.get(name), int):
                    return int(value[name])
    return None


def _find_most_pixels(processor: dict[str, Any]) -> int | None:
    """The maximum area for a model of any resolution; its files call pixel counts edges."""
    if "merge_size" not in processor or "patch_size" not in processor:
        return None
    unit = (processor["patch_size"] * processor["merge_size"]) ** 2
    edge = (processor.get("size") or {}).get("longest_edge")
    limits = (processor.get("max_pixels"), edge, _MOST_PATCHES * unit)
    return min(int(limit) for limit in limits if limit)


def _find_longest_side(processor: dict[str, Any]) -> int | None:
    size = processor.get("size")
    known = isinstance(size, dict) and "merge_size" not in processor
    return size.get("longest_edge") if known and isinstance(size, dict) else None
