"""The decoder of stage 2: sparse text as dense text with most of it masked away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vse.pooling import GPO


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


class MaskTokenDecoder(nn.Module):
    """Mask tokens beside the word features -> blocks -> pooled at the mask-token positions: r.

    There are no position codes here (BERT's are inside the word features), and padding is masked,
    so attention cannot tell prefix, postfix and surround apart: they differ by rounding alone.
    """

    def __init__(
        self,
        width: int,
        *,
        tokens: int = 100,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        placement: str = "surround",
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        self.mask_tokens = nn.Parameter(torch.randn(tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, mlp_ratio=mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.pool = GPO() if pooling == "gpo" else None
        # The paper does not state how it splits the tokens around the text: half and half.
        self.before = {"prefix": tokens, "postfix": 0, "surround": tokens // 2}[placement]

    def forward(self, words: Tensor, *, mask: Tensor | None) -> Tensor:
        """Word features (B, L, D) and their mask (B, L) bool, True = a word -> r (B, D)."""
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
        filled = torch.cat((x[:, : self.before], x[:, self.before + length :]), dim=1)
        if self.pool is None:
            return filled.mean(dim=1)
        lengths = torch.full((batch,), filled.shape[1])
        return self.pool(filled, mask=None, lengths=lengths)
