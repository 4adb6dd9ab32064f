"""Names of the weights, both ways."""

import pytest
import torch

from data.errors import UserError
from tests.golden.ours import build
from tests.golden.small import read_small, small_names
from vse.released.architecture import describe_weights
from vse.released.keys import our_key, released_key, strip_module
from vse.released.unread import make_unread


@pytest.mark.parametrize("name", small_names())
def test_every_name_goes_there_and_back(name: str) -> None:
    pair = read_small(name)
    model = build(pair, 2)
    read = {key for key in pair.shapes[2] if our_key(key) is not None}
    assert {our_key(key) for key in read} == set(model.state_dict())
    assert {released_key(key) for key in model.state_dict()} == read


@pytest.mark.parametrize("name", small_names())
def test_what_is_never_read_is_made_under_the_names_that_the_released_code_has(name: str) -> None:
    pair = read_small(name)
    model = build(pair, 2)
    made = make_unread(model, teacher={"txt_enc.fc.bias": torch.ones(512)})
    shapes = {k: tuple(v.shape) for k, v in made.items() if not k.startswith("long_")}
    assert shapes == {k: s for k, s in pair.shapes[2].items() if our_key(k) is None}
    theirs = {key.removeprefix("long_") for key in made if key.startswith("long_")}
    assert {k for k in shapes if k.startswith("txt_enc.")} | {"txt_enc.fc.bias"} == theirs
    # The places of a window of 2 x 2, as transformers 4 counts them.
    for key, value in made.items():
        if key.endswith("relative_position_index"):
            expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
            assert value.tolist() == expected


def test_foreign_names_are_named() -> None:
    with pytest.raises(UserError, match=r"'txt_enc.lstm.weight' is none of the weights"):
        our_key("txt_enc.lstm.weight")
    assert released_key("image.backbone.blocks.0.attn.qkv.weight") is None
    assert strip_module({"module.a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_architectures_are_told_from_names_and_shapes() -> None:
    swin = describe_weights(read_small("swin").shapes[2], px=32)
    backbone = swin["image"]["backbone"]
    assert (backbone["model_type"], backbone["embed_dim"]) == ("swin", 256)
    assert (backbone["depths"], backbone["num_heads"]) == ([2, 1, 1], [8, 16, 32])
    assert (backbone["window_size"], backbone["mlp_ratio"]) == (2, 0.25)
    cross = describe_weights(read_small("vit_cross_alone").shapes[2], px=48, residual=False)
    assert cross["decoder"]["kind"] == "cross_attention" and not cross["decoder"]["residual"]
    shapes = dict(read_small("vit_cos").shapes[1])
    assert describe_weights(shapes, px=48)["decoder"] is None
    del shapes["img_enc.visual_encoder.embeddings.position_embeddings"]
    with pytest.raises(UserError, match="lack img_enc.visual_encoder.embeddings.position_emb"):
        describe_weights(shapes, px=48)
    shapes["txt_enc.bert.embeddings.word_embeddings.weight"] = (120, 100)
    with pytest.raises(UserError, match="no weight tells how many attention heads the text tower"):
        describe_weights({**read_small("vit_cos").shapes[1], **{
            "txt_enc.bert.embeddings.word_embeddings.weight": (120, 100)}}, px=48)  # fmt: skip
