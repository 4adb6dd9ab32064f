"""open_clip's tokenizers as ours: the same ids, with words, saved and read back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from data.errors import UserError
from tests.vse.model.backbones.clips import MODELS, TEXT, register
from vse.model.tokenizer import tokenizer as tokenizers
from vse.model.tokenizer.choice import check_tokenizer, load_pretrained
from vse.model.tokenizer.tokens import tokenize
from vse.recipes.files import read_recipe, resolve
from vse.samples.augmentation import augment_batch, sample_sentences

TEXTS = [
    "A dog's 12 toys; it's  5pm!!",
    "caf\u00e9 na\u00efve \u2019tis &amp; fun",
    "emoji \U0001f600\U0001f44d\U0001f3fd ok",
    "ALL CAPS 'S 'LL",
    "\u4f60\u597d \u4e16\u754c",
    "",
    "   ",
    "a_b-c...d/e (f) [g] {h} #tag @you",
    "\ufb01ne \uff26ull width, \u0130stanbul \u00df",
    "tab\tnew\nline 3.14 1,000",
]


def test_clips_byte_pairs() -> None:
    made = load_pretrained("open_clip:ViT-B-32/openai")
    theirs = open_clip.get_tokenizer("ViT-B-32")
    for text, encoding in zip(TEXTS, made.encode_batch(TEXTS), strict=True):
        ids = [theirs.sot_token_id, *theirs.encode(text), theirs.eot_token_id]
        assert encoding.ids == ids, text
    assert (made.pad_id, made.mask_id, made.vocab_size) == (0, None, 49408)
    assert made.encode_batch(["a dog's toy"])[0].word_ids == [None, 0, 1, 2, 3, None]
    # A caption that spells a special token gets none.
    ids = made.encode_batch(["<end_of_text> x"])[0].ids
    assert ids.count(theirs.eot_token_id) == 1


def test_cut_like_open_clip_cuts() -> None:
    made = load_pretrained("open_clip:ViT-B-32/openai")
    long = "a red square " * 60
    expected = open_clip.get_tokenizer("ViT-B-32")([long])[0].tolist()
    assert tokenize([long], made, max_tokens=77)[0].tolist() == expected


def test_saved_and_read_back(tmp_path: Path) -> None:
    made = load_pretrained("open_clip:ViT-B-32/openai")
    tokenizers.save(made, tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.pad_id, again.mask_id, again.clean) == (0, None, "lower")
    ids = [[encoding.ids for encoding in t.encode_batch(TEXTS)] for t in (made, again)]
    assert ids[0] == ids[1] and made.to_str() == again.to_str()
    for wrong in ('{"pad_id": 0}', '{"pad_id": "0", "mask_id": 1, "clean": null}', "[]",
                  '{"pad_id": 0, "mask_id": 1, "clean": "rm"}'):  # fmt: skip
        (tmp_path / "special.json").write_text(wrong)
        with pytest.raises(UserError, match="cannot be read as a tokenizer: special.json"):
            tokenizers.load(tmp_path)


def test_one_with_pad_and_mask_needs_no_second_file(tmp_path: Path) -> None:
    made = tokenizers.build(["a red square"], vocab_size=60)
    tokenizers.save(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    again = tokenizers.load(tmp_path)
    assert (again.pad_id, again.mask_id) == (made.pad_id, made.mask_id) == (0, 4)


def test_the_second_file_of_another_tokenizer_does_not_stay(tmp_path: Path) -> None:
    tokenizers.save(load_pretrained("open_clip:ViT-B-32/openai"), tmp_path)
    made = tokenizers.build(["a red square"], vocab_size=60)
    tokenizers.save(made, tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.pad_id, again.mask_id, again.clean) == (0, 4, None)


def test_a_tokenizer_of_transformers_cleaned_and_without_its_last_token(tmp_path: Path) -> None:
    base = tokenizers.build(["a red square, it is"], vocab_size=60).backend
    special = {"pad_token": "[PAD]", "mask_token": "[MASK]", "cls_token": "[CLS]"}
    whole = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(base.to_str()), sep_token="[SEP]", **special
    )
    whole.save_pretrained(tmp_path / "words")
    text = {
        **TEXT,
        "hf_tokenizer_name": str(tmp_path / "words"),
        "tokenizer_kwargs": {"clean": "canonicalize", "strip_sep_token": True},
    }
    register(tmp_path, **{"d2s-words": {**MODELS["d2s-vit"], "text_cfg": text}})
    made = load_pretrained("open_clip:d2s-words")
    theirs = open_clip.get_tokenizer("d2s-words")
    for text in ("A red, square!", "it is ... red"):
        ids = made.encode_batch([text])[0].ids
        padded = theirs([text])[0].tolist()
        assert padded[: len(ids)] == ids and not any(padded[len(ids) :]), text
    assert (made.pad_id, made.mask_id, made.clean) == (0, 4, "canonicalize")


@pytest.mark.parametrize("stage", ["1", "2", "joint"])
def test_cleaning_that_removes_full_stops_leaves_no_sentences(stage: str) -> None:
    base = tokenizers.build(["a red square. it is!"], vocab_size=60).backend
    kept, cleaned = (tokenizers.wrap(base, where="", clean=c) for c in ("lower", "canonicalize"))
    assert len(kept.end_ids) == 2 and cleaned.end_ids == []
    recipe = resolve(read_recipe("siglip2"), stage=stage)
    check_tokenizer(cleaned, recipe, stage=stage)
    for way in ("sample", "sentence"):
        text = replace(recipe.text, too_long=way)
        check_tokenizer(kept, replace(recipe, text=text), stage=stage)
        with pytest.raises(UserError, match="SigLIP2.*text.too_long=cut"):
            check_tokenizer(cleaned, replace(recipe, text=text), stage=stage)
    drawn = replace(recipe, data=replace(recipe.data, sentences=2))
    check_tokenizer(kept, drawn, stage=stage)
    if stage == "2":  # reads no dense sentences
        check_tokenizer(cleaned, drawn, stage=stage)
        return
    with pytest.raises(UserError, match="data.sentences=null"):
        check_tokenizer(cleaned, drawn, stage=stage)


def test_a_folder_cannot_have_its_own_code_run(tmp_path: Path) -> None:
    text = {
        **TEXT,
        "hf_tokenizer_name": "here",
        "tokenizer_kwargs": {"clean": "lower", "trust_remote_code": True},
    }
    config = {"model_cfg": {**MODELS["d2s-vit"], "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trust_remote_code.* refused"):
        load_pretrained(f"open_clip:{tmp_path}")


def test_without_a_mask_token_hidden_words_vanish() -> None:
    made = load_pretrained("open_clip:ViT-B-32/openai")
    store = tokenize(["a red square at the left of a green ground"] * 200, made, max_tokens=77)
    draws = [[np.random.default_rng(i) for i in range(200)] for _ in range(2)]
    settings = {"share": 0.5, "vocab_size": made.vocab_size}
    rows = augment_batch(store, range(200), draws[0], mask_id=None, **settings)  # type: ignore
    masked = augment_batch(store, range(200), draws[1], mask_id=-7, **settings)  # type: ignore
    for row, other in zip(rows, masked, strict=True):
        np.testing.assert_array_equal(row, other[other != -7])
    assert sum(map(len, rows)) < sum(map(len, masked))


def test_sentences_end_where_they_end() -> None:
    made = load_pretrained("open_clip:ViT-B-32/openai")
    store = tokenize(["A red square. A blue one! Is it?"], made, max_tokens=77)
    kept = sample_sentences(store[0], np.random.default_rng(0), most=1, end_ids=made.end_ids)
    assert kept[-2] in made.end_ids and len(kept) < len(store[0]) - 2


def test_one_that_cannot_be_had() -> None:
    with pytest.raises(UserError, match="tokenizer of open_clip:ViT-B-16-SigLIP/webli .*FOLDER"):
        load_pretrained("open_clip:ViT-B-16-SigLIP/webli")
    with pytest.raises(UserError, match="hf download nobody/bert"):
        load_pretrained("nobody/bert")


def test_settings_are_told_apart_in_the_cache() -> None:
    made = load_pretrained("open_clip:ViT-B-32/openai")
    assert json.loads(made.backend.to_str()) and made.to_str() != made.backend.to_str()
