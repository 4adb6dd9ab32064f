"""The configurations behind the names in the shipped recipes, for forecasts without a network."""

from __future__ import annotations

from typing import Any

_SWIN_B = {
    "model_type": "swin",
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
}

# As their config.json on the hub has them; what is left out is transformers' default.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "google/vit-base-patch16-224-in21k": {"model_type": "vit"},
    "google/vit-base-patch16-384": {"model_type": "vit", "image_size": 384},
    "microsoft/swin-base-patch4-window7-224-in22k": _SWIN_B,
    "microsoft/swin-base-patch4-window12-384-in22k": {
        **_SWIN_B,
        "image_size": 384,
        "window_size": 12,
    },
    "bert-base-uncased": {"model_type": "bert"},
}
