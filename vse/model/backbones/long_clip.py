"""Local CLIP checkpoints with more text positions than their architecture, such as Long-CLIP's.

open_clip resizes their position embeddings to the architecture's 77 without a message, which
discards what Long-CLIP (Zhang et al., ECCV 2024) has learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import load_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor

from vse.model.backbones.stretch import KEPT

CODES = "text.positional_embedding"
# Long-CLIP keeps CLIP's embeddings of all positions, but only reads the first 20 of them, which are
# not trained. The embeddings of the other positions are in this second parameter.
TRAINED = "text.positional_embedding_res"


@dataclass(frozen=True)
class LongClip:
    """Weights for open_clip's CustomTextCLIP, and their number of text positions."""

    weights: dict[str, Tensor]
    positions: int


def read_long_clip(path: str | None, text_cfg: Mapping[str, Any]) -> LongClip | None:
    """The checkpoint at `path`, if it is Long-CLIP's or has more text positions than `text_cfg`.

    None as well for anything that is not a file of weights: open_clip reports it.
    """
    if path is None or not Path(path).is_file() or text_cfg.get("embed_cls"):
        return None
    try:
        weights = convert_to_custom_text_state_dict(load_state_dict(path))
    except Exception:  # reading can raise anything, and open_clip reads the file again
        return None
    codes, trained = weights.get(CODES), weights.pop(TRAINED, None)
    if codes is None or (trained is None and len(codes) <= text_cfg.get("context_length", 77)):
        return None
    if trained is not None:
        weights[CODES] = torch.cat((codes[:KEPT], trained[KEPT:]))
    return LongClip(weights, len(codes))
