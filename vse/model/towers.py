"""The image tower and the text tower: backbone, head, GPO."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vse.model.backbones import ImageBackbone, TextBackbone
from vse.model.backbones.probe import count_tokens
from vse.model.batch_norm import TokenBatchNorm
from vse.model.gpo import GPO
from vse.model.text_batch import TextBatch
from vse.model.transfer import send


class ImageTower(nn.Module):
    """Backbone -> all its tokens -> Linear -> GPO -> unit length."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: ImageBackbone, *, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(backbone.mean), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std), persistent=False)
        self.fc = nn.Linear(backbone.width, width)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.pool = GPO()

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), with the backbone's mean and deviation.

        Tokens of a frozen backbone (B, N, W) are returned unchanged.
        """
        if pixels.is_floating_point():
            return pixels
        return normalise(pixels, mean=self.mean, std=self.std)

    def forward(self, pixels: Tensor, *, drop: Tensor | None = None) -> Tensor:
        """Normalized pixels (B, 3, H, W), or their backbone tokens -> v (B, D), of length 1.

        Args:
            drop: size augmentation, (B, N) bool, True drops the token; on the CPU, because GPO
                needs the counts there.
        """
        states = pixels if pixels.dim() == 3 else self.backbone(pixels)
        tokens = self.fc(states)  # (B, N, D)
        batch, count, _ = tokens.shape
        if drop is None:
            mask, lengths = None, torch.full((batch,), count)
        else:
            keep = _keep_one(~drop[:, :count])
            mask, lengths = send(keep, tokens.device), keep.sum(dim=1)
        pooled = self.pool(tokens, mask=mask, lengths=lengths)
        return nn.functional.normalize(pooled.float(), dim=-1)

    def token_count(self, px: int) -> int:
        """The number of tokens of a px x px image."""
        return count_tokens(self.backbone, px)


class TextTower(nn.Module):
    """Backbone -> dropout -> w = Linear + MLP per token -> t = LayerNorm(GPO(w)), any length."""

    def __init__(
        self,
        backbone: TextBackbone,
        *,
        width: int,
        dropout: float = 0.2,
        head_on_padding: bool = False,
    ) -> None:
        """`head_on_padding`: padding passes through the head (a defect of the released code)."""
        super().__init__()
        hidden = backbone.width
        self.backbone = backbone
        self.head_on_padding = head_on_padding
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, width // 2),
            TokenBatchNorm(width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, width),
        )
        self.pool = GPO()
        self.norm = nn.LayerNorm(width)

    def forward(self, text: TextBatch) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) -> t (B, D) and the word features w (B, L, D).

        w is zero at padding, unless the head also runs on padding.
        """
        words = self.word_features(text)
        pooled = self.pool(words, mask=text.mask, lengths=text.lengths)
        return self.norm(pooled), words

    def word_features(self, text: TextBatch) -> Tensor:
        """-> w (B, L, D). Only real tokens pass the head: BatchNorm must not see padding."""
        batch, length = text.ids.shape
        rows = text.states  # (T, H), only real tokens
        if rows is None:
            rows = self.backbone(text.ids, text.mask).reshape(batch * length, -1)
            if self.head_on_padding:
                rows = self.dropout(rows)
                return (self.fc(rows) + self.mlp(rows)).view(batch, length, -1)
            rows = rows.index_select(0, text.real)
        rows = self.dropout(rows)
        rows = self.fc(rows) + self.mlp(rows)
        words = rows.new_zeros(batch * length, rows.shape[-1])
        return words.index_copy(0, text.real, rows).view(batch, length, -1)


def _keep_one(keep: Tensor) -> Tensor:
    """Never drop every token of an image: keep the first if none is left."""
    first = torch.zeros_like(keep)
    first[:, 0] = ~keep.any(dim=1)
    return keep | first


def normalise(pixels: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W); mean and std (3,) refer to values in [0, 1]."""
    # Transpose as bytes, then work in place: a third of the time of the plain formula.
    planes = pixels.permute(0, 3, 1, 2).contiguous().float()
    return planes.sub_(mean[:, None, None] * 255).div_(std[:, None, None] * 255)
