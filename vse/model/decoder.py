"""The decoder of stage 2: treats a sparse text as a mostly masked dense text."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vse.model.gpo import GPO
from vse.recipes import DecoderConfig


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, *, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, *, mask: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, N, D); `mask` (B, 1, 1, N) is True at positions that may be attended."""
        batch, count, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D / heads)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.proj(seen.transpose(1, 2).reshape(batch, count, width))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Decoder(nn.Module, ABC):
    """Learnable mask tokens that read the words of a text; pooled over the tokens to r.

    With `attend_padding`, padding is read like words (a defect of the released code: an embedding
    depends on the longest text in its batch).
    """

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.mask_tokens = nn.Parameter(torch.randn(config.tokens, width))
        self.attend_padding = config.attend_padding
        self._add_layers(width, config)
        self.pool = GPO() if config.pooling == "gpo" else None  # None: the mean

    @abstractmethod
    def _add_layers(self, width: int, config: DecoderConfig) -> None:
        """Add the layers between tokens and pooling."""

    def forward(self, words: Tensor, *, mask: Tensor | None) -> Tensor:
        """Word features (B, L, D) and their mask (B, L) bool, True = a word -> r (B, D)."""
        filled = self.fill(words, mask=None if self.attend_padding else mask)
        if self.pool is None:
            return filled.mean(dim=1)
        lengths = torch.full(filled.shape[:1], filled.shape[1])
        pooled: Tensor = self.pool(filled, mask=None, lengths=lengths)
        return pooled

    @abstractmethod
    def fill(self, words: Tensor, *, mask: Tensor | None) -> Tensor:
        """The mask tokens after the layers, (B, tokens, D)."""


class MaskTokenDecoder(Decoder):
    """Mask tokens around the word features -> blocks -> the mask-token positions.

    There are no position embeddings here (BERT's are part of the word features), and padding is
    masked, so attention cannot distinguish prefix, postfix and surround: they only differ by
    rounding.
    """

    def _add_layers(self, width: int, config: DecoderConfig) -> None:
        self.blocks = nn.ModuleList(
            Block(width, heads=config.heads, mlp_ratio=config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        # The paper does not say how the tokens are split around the text; we use halves.
        places = {"prefix": config.tokens, "postfix": 0, "surround": config.tokens // 2}
        self.before = places[config.placement]

    def fill(self, words: Tensor, *, mask: Tensor | None) -> Tensor:
        batch, length, _ = words.shape
        tokens = self.mask_tokens.expand(batch, -1, -1)
        head, tail = tokens[:, : self.before], tokens[:, self.before :]
        x = torch.cat((head, words, tail), dim=1)
        attend = None
        if mask is not None:
            ends = (self.before, tokens.shape[1] - self.before)
            attend = nn.functional.pad(mask, ends, value=True)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask=attend)
        x = self.norm(x)
        return torch.cat((x[:, : self.before], x[:, self.before + length :]), dim=1)


class CrossAttentionDecoder(Decoder):
    """The small variant: tokens + a single multi-head attention from the tokens to the words."""

    def _add_layers(self, width: int, config: DecoderConfig) -> None:
        self.attention = nn.MultiheadAttention(width, config.cross_heads, batch_first=True)

    def fill(self, words: Tensor, *, mask: Tensor | None) -> Tensor:
        # Not len(words): an exporter would fix that as the batch size.
        tokens = self.mask_tokens.expand(words.shape[0], -1, -1)
        padding = None if mask is None else ~mask
        seen, _ = self.attention(tokens, words, words, key_padding_mask=padding, need_weights=False)
        return tokens + seen
