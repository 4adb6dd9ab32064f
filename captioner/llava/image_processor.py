"""What a model's own files say about images: their size, their colour, their tokens."""

from typing import Any

from captioner.llava.preprocess import Preprocessing
from captioner.llava.weights import Weights
from data.errors import UserError

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
# Towers that cut every image into the same patches, and the tokens they put before those.
_EXTRA_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def choose_preprocessing(
    weights: Weights, *, aspect: str | None, max_image_pixels: int
) -> Preprocessing:
    """The model's own size and colour, and the aspect asked for or the one it was trained with.

    Raises:
        UserError: an aspect that this model cannot have.
    """
    config = weights.read_json("config.json")
    model_type = config.get("model_type")
    processor = _read_image_processor(weights)
    size = _find_size(processor)
    tiles = model_type != "llava" or size is None
    if tiles and aspect not in (None, "keep"):
        raise UserError(
            f"{weights.model} ({model_type}) cuts photos up by itself: leave --aspect out"
        )
    mean = processor.get("image_mean") or _CLIP_MEAN
    red, green, blue = (int(255 * channel) for channel in mean)
    return Preprocessing(
        aspect="keep" if tiles else (aspect or "pad"),  # type: ignore[arg-type]
        size=None if tiles or aspect == "keep" else size,
        fill=(red, green, blue),
        max_image_pixels=max_image_pixels,
        grids=_read_grids(config, processor) if tiles else (),
    )


def count_image_tokens(weights: Weights) -> int:
    """The least number of prompt tokens that one image must take, by the model's config.

    LLaVA-1.5 takes exactly as many; LLaVA-1.6 takes as many for the overview, and more for tiles.
    Other models: 1.
    """
    config = weights.read_json("config.json")
    vision = config.get("vision_config") or {}
    side, patch = vision.get("image_size"), vision.get("patch_size")
    extra = _EXTRA_TOKENS.get(vision.get("model_type", ""))
    known = config.get("model_type") in {"llava", "llava_next"} and extra is not None
    if not (known and side and patch):
        return 1
    whole = (int(side) // int(patch)) ** 2 + (extra or 0)
    # "default" drops the first token, whatever it is.
    return whole - (config.get("vision_feature_select_strategy", "default") == "default")


def _read_image_processor(weights: Weights) -> dict[str, Any]:
    """transformers 5 writes one processor_config.json, older versions preprocessor_config.json."""
    nested = weights.read_json("processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else weights.read_json("preprocessor_config.json")


def _read_grids(config: dict[str, Any], processor: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """(W, H) of each; the files say (H, W)."""
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
