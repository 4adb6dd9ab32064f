"""The tokenizers of open_clip's models as `tokenizers` objects, which know word boundaries."""

from __future__ import annotations

from typing import Any

from open_clip import SimpleTokenizer, get_model_config, get_tokenizer
from open_clip.tokenizer import HFTokenizer, get_clean_fn
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from data.errors import UserError, one_line
from vse.model.backbones.open_clip import parse_name
from vse.model.tokenizer.tokenizer import CLEANERS, TextTokenizer, adopt, wrap

KNOWN = {"clean", "strip_sep_token", "language", "additional_special_tokens"}
# How CLIP's byte-pair encoding splits a cleaned text into words.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def load_open_clip(name: str) -> TextTokenizer:
    """The tokenizer of open_clip:ARCH/WEIGHTS, or of a hub id or folder.

    Raises:
        UserError: no such model; a tokenizer that is not available or not supported.
    """
    found = open_tokenizer(name)
    if isinstance(found, SimpleTokenizer):
        return wrap(byte_pairs(found), where=name, pad_id=0, clean=_cleaner(found))
    if not isinstance(found, HFTokenizer) or found.tokenizer_mode:
        raise UserError(f"the tokenizer of {name} is of an unknown kind")
    made = adopt(found.tokenizer, where=name, clean=_cleaner(found))
    if found.strip_sep_token:
        first, inner = found.tokenizer.cls_token, found.tokenizer.cls_token_id
        made.backend.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, inner)]
        )
    return made


def open_tokenizer(name: str) -> Any:
    """open_clip's own tokenizer of a model: texts to ids (N, L), padded to `context_length`.

    Raises:
        UserError: no such model, or a tokenizer that is not available.
    """
    source, _ = parse_name(name, pretrained=False)
    try:
        settings = get_model_config(source)["text_cfg"].get("tokenizer_kwargs") or {}
        # Other tokenizers use transformers, which could run code from the hub.
        if refused := sorted(set(settings) - KNOWN):
            raise UserError(
                f"the tokenizer of {name} asks for {', '.join(refused)}, which is refused"
            )
        return get_tokenizer(source)
    except UserError:
        raise
    except Exception as error:  # whatever lies below open_clip: files, hub, network
        raise UserError(
            f"the tokenizer of {name} is neither in the Hugging Face cache nor available "
            f"({one_line(error)}): load it once where there is a network, or use a local folder "
            "(open_clip:FOLDER)"
        ) from error


def byte_pairs(simple: SimpleTokenizer) -> Tokenizer:
    """CLIP's byte-pair encoding; the literal text <end_of_text> does not become a special token."""
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    backend = Tokenizer(models.BPE(simple.encoder, merges, end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = (simple.decoder[token] for token in (simple.sot_token_id, simple.eot_token_id))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)],
    )
    return backend


def _cleaner(tokenizer: SimpleTokenizer | HFTokenizer) -> str:
    return next(name for name in CLEANERS if get_clean_fn(name) is tokenizer.clean_fn)
