"""The towers with plain tensors as inputs, as the ONNX files have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vse.model.d2s import D2SModel
from vse.model.text_batch import TextBatch


class ImageInput(nn.Module):
    """Normalised pixels (B, 3, px, px) -> (B, D), of length 1."""

    def __init__(self, model: D2SModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class TextInput(nn.Module):
    """Token ids and mask (B, L) int64, 1 = token, 0 = padding -> (B, D), of length 1."""

    def __init__(self, model: D2SModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.bool()
        # In evaluation mode a padding row harms nothing, so every row passes the head: how many
        # rows are words is no shape that an exporter could know.
        every = torch.arange(input_ids.shape[0] * input_ids.shape[1])
        batch = TextBatch(input_ids, mask, mask.sum(dim=1), every)
        return nn.functional.normalize(self.model.encode_text(batch), dim=-1)
