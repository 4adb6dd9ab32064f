"""The small LLaVA: its words, its picture size, its file names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from captioner.llava_scenes.build import (
    IMAGE_PIXELS,
    PROMPT,
    build_model,
    build_processor,
    normalise,
    save_for_vllm,
)
from data.scenes.dense import describe
from data.scenes.render import render
from data.scenes.world import SPLITS, sample_scene


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return build_processor()


def test_every_dense_text_survives_the_tokenizer(processor: LlavaProcessor) -> None:
    tokenizer = processor.tokenizer
    for split in SPLITS:
        for index in range(100):
            text = describe(sample_scene(9, split, index))
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_prompt_goes_through_the_template_with_all_image_tokens(processor: LlavaProcessor) -> None:
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert chat == "USER: <image>\nDescribe this image in detail. ASSISTANT:"
    picture = Image.new("RGB", (192, 192))
    ids = processor(text=chat, images=picture, return_tensors="pt").input_ids[0]
    assert (ids == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 64
    assert processor.tokenizer.unk_token_id not in ids


def test_training_sees_what_the_processor_gives(processor: LlavaProcessor) -> None:
    """A picture that already has the model's size must not be changed but for the scale."""
    picture = render(sample_scene(0, "test", 0), seed=0).resize((IMAGE_PIXELS, IMAGE_PIXELS))
    given = processor.image_processor(picture, return_tensors="pt").pixel_values
    ours = normalise(torch.from_numpy(np.array(picture))[None])
    torch.testing.assert_close(ours, given, atol=1e-5, rtol=0)


def test_saved_under_the_published_names_and_read_back_whole(
    processor: LlavaProcessor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_model(processor)
    save_for_vllm(model, processor, tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as tensors:
        names = set(tensors.keys())
    assert any("vision_tower.vision_model.embeddings" in name for name in names)
    assert not any("vision_tower.embeddings" in name for name in names)
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == processor.chat_template
