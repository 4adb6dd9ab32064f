"""Settings of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from vse.config.checks import one_of, require


@dataclass(frozen=True)
class DecoderConfig:
    """Stage 2: mask tokens beside the words, pre-norm transformer blocks, pooled to r."""

    tokens: int = 100
    depth: int = 4
    heads: int = 4
    mlp_ratio: float = 4.0
    placement: str = "surround"  # prefix | postfix | surround
    pooling: str = "mean"  # mean | gpo
    residual: bool = True  # text embedding t + r, else r alone

    def __post_init__(self) -> None:
        one_of("decoder.placement", self.placement, ("prefix", "postfix", "surround"))
        one_of("decoder.pooling", self.pooling, ("mean", "gpo"))
        require(self.tokens > 0 and self.depth >= 0, "decoder.tokens and depth must be positive")
