"""The model: two towers and, from stage 2 on, the decoder. Nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vse.model.decoder import Decoder
from vse.model.logits import Logits
from vse.model.text_batch import TextBatch
from vse.model.towers import ImageTower, TextTower


class D2SModel(nn.Module):
    """Stage 1 (no decoder): text embedding t. Stage 2: t + r, or r alone without `residual`."""

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        decoder: Decoder | None = None,
        *,
        residual: bool = True,
        unit_at_test: bool = False,
        logits: Logits | None = None,
    ) -> None:
        """`unit_at_test`: in evaluation mode, r gets length 1 (a defect of the released code).

        `logits`: the learned scale of a loss; embeddings do not depend on it.
        """
        super().__init__()
        self.image = image
        self.text = text
        self.decoder = decoder
        self.logits = logits
        self.residual = residual
        self.unit_at_test = unit_at_test

    @property
    def reads_padding(self) -> bool:
        """Whether an embedding depends on the rest of its batch (a defect of the released code)."""
        return self.decoder is not None and self.decoder.attend_padding

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As in Module; a rebuilt model gets the logits contained in the weights, if any."""
        if self.logits is None and "logits.log_scale" in state_dict:
            self.logits = Logits(scale=1.0, bias=0.0 if "logits.bias" in state_dict else None)
        return super().load_state_dict(state_dict, *args, **options)

    def encode_image(self, pixels: Tensor, *, drop: Tensor | None = None) -> Tensor:
        """Normalized pixels (B, 3, H, W) -> v (B, D), of length 1."""
        embedding: Tensor = self.image(pixels, drop=drop)
        return embedding

    def encode_text(self, text: TextBatch) -> Tensor:
        """Token ids -> (B, D), in float32, not of length 1: compare by cosine."""
        t, words = self.text(text)
        if self.decoder is None:
            return t.float()
        r = self.decoder(words, mask=text.mask)
        if self.unit_at_test and not self.training:
            r = nn.functional.normalize(r, dim=-1)
        return (t + r if self.residual else r).float()

    def forward(
        self, pixels: Tensor, text: TextBatch, *, drop: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image and text embeddings, each (B, D)."""
        return self.encode_image(pixels, drop=drop), self.encode_text(text)
