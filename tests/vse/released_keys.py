"""State-dict keys of the code released with the paper (transformers 4) -> keys of our model."""

from __future__ import annotations

import re

_RULES = (
    (r"^(?:long_)?txt_enc\.bert\.", "text.backbone."),
    (r"^txt_enc\.mlp\.layers\.0\.", "text.mlp.0."),
    (r"^txt_enc\.mlp\.bns\.0\.", "text.mlp.1."),
    (r"^txt_enc\.mlp\.layers\.1\.", "text.mlp.3."),
    (r"^txt_enc\.ln\.", "text.norm."),
    (r"^txt_enc\.gpool\.", "text.pool."),
    (r"^txt_enc\.fc\.", "text.fc."),
    (r"^img_enc\.image_encoder\.fc\.", "image.fc."),
    (r"^img_enc\.image_encoder\.gpool\.", "image.pool."),
    (r"^img_enc\.visual_encoder\.encoder\.layer\.", "image.backbone.layers."),
    (r"^img_enc\.visual_encoder\.", "image.backbone."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"(image.*)\.attention\.output\.dense\.", r"\1.attention.o_proj."),
    (r"(image.*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"(image\.backbone\.layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^prompt_learner\.decoder_blocks\.(\d+)\.(?:attn|mlp)\.", r"decoder.blocks.\1."),
    (r"^prompt_learner\.decoder_blocks\.", "decoder.blocks."),
    (r"^prompt_learner\.decoder_norm\.", "decoder.norm."),
    (r"^prompt_learner\.pooling\.", "decoder.pool."),
    (r"^prompt_learner\.prompt_tokens$", "decoder.mask_tokens"),
)
# Poolers and a second batch norm that the released code carries along without using them.
_UNUSED = re.compile(r"\.pooler\.|\.mlp\.bns\.1\.|^prompt_learner\.mask_token$|^long_txt_enc\.")


def our_key(released: str) -> str | None:
    """Our key, or None for a tensor that nothing reads."""
    if _UNUSED.search(released):
        return None
    for pattern, new in _RULES:
        released = re.sub(pattern, new, released)
    return released
