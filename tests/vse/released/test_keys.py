"""Names of the weights, and what they tell."""

import pytest

from data.errors import UserError
from tests.golden.ours import build, released
from tests.golden.small import read_small, small_names
from vse.released.architecture import describe_weights
from vse.released.keys import our_key, strip_module


@pytest.mark.parametrize("name", small_names())
def test_every_name_goes_there_and_back(name: str) -> None:
    pair = read_small(name)
    model = build(pair, 2)
    read = {key for key in pair.shapes[2] if our_key(key) is not None}
    assert {our_key(key) for key in read} == set(model.state_dict())
    assert {released(key) for key in model.state_dict()} == read


def test_foreign_names_are_named() -> None:
    with pytest.raises(UserError, match=r"'txt_enc.lstm.weight' is not a weight"):
        our_key("txt_enc.lstm.weight")
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
    with pytest.raises(UserError, match="the number of attention heads of the text tower"):
        describe_weights({**read_small("vit_cos").shapes[1], **{
            "txt_enc.bert.embeddings.word_embeddings.weight": (120, 100)}}, px=48)  # fmt: skip
