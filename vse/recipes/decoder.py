"""Settings of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from vse.recipes.checks import one_of, require


@dataclass(frozen=True)
class DecoderConfig:
    """Stage 2: mask tokens beside the words, pre-norm transformer blocks, pooled to r.

    Or, as `kind` says, a single cross-attention from the tokens to the words.
    """

    kind: str = "blocks"  # blocks | cross_attention, which has no depth, mlp_ratio and placement
    tokens: int = 100  # mask tokens
    depth: int = 4  # blocks
    heads: int = 4  # of the blocks
    cross_heads: int = 8  # of the cross-attention
    mlp_ratio: float = 4.0  # hidden width of a block's MLP, in widths
    placement: str = "surround"  # prefix | postfix | surround: where the tokens stand
    attend_padding: bool = False  # as released: what a text becomes depends on its batch
    pooling: str = "mean"  # mean | gpo, over what the tokens have become
    residual: bool = True  # text embedding t + r, else r alone
    unit_at_test: bool = False  # as released: r is cut to length 1 when testing, never in training

    def __post_init__(self) -> None:
        one_of("decoder.kind", self.kind, ("blocks", "cross_attention"))
        one_of("decoder.placement", self.placement, ("prefix", "postfix", "surround"))
        one_of("decoder.pooling", self.pooling, ("mean", "gpo"))
        require(self.tokens > 0, "decoder.tokens must be positive")
        require(self.depth >= 0, "decoder.depth must not be negative")
        require(self.heads > 0 and self.cross_heads > 0, "the decoder's heads must be positive")

    def check_width(self, width: int) -> None:
        """UserError if the heads do not divide the joint width."""
        name = "heads" if self.kind == "blocks" else "cross_heads"
        heads = getattr(self, name)
        require(width % heads == 0, f"width {width} is no multiple of {heads} decoder.{name}")
