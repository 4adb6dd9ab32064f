"""The architecture of `llava-scenes`: LLaVA-1.5 in small, with a word-level vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from data.scenes.dense import describe
from data.scenes.world import sample_scene

IMAGE_PIXELS = 112
PATCH_PIXELS = 14
PROMPT = "Describe this image in detail."
# LLaVA-1.5's chat template, as in its published processor.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] if content['type'] == 'image' %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'text' %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# Published checkpoints name the towers differently than transformers 5.
_RENAMED_TOWERS = ("clip_vision_model", "siglip_vision_model")
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words of the dense texts and of the conversation; any other word is <unk>."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    flatten = normalizers.Replace("\n", " ")
    texts = [describe(sample_scene(0, "captioner_train", index)) for index in range(300)]
    texts.append(f"USER: {PROMPT} ASSISTANT:")
    # There is a single space before <image>.
    words = {"\u2581"} | {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: rank for rank, word in enumerate((*_SPECIAL, *sorted(words)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = flatten
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=1024,
    )


def build_processor() -> LlavaProcessor:
    """The processor: CLIP's image normalisation at 112 px and the tokenizer above."""
    side = {"height": IMAGE_PIXELS, "width": IMAGE_PIXELS}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_PIXELS}, crop_size=side)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, dropped by "default"
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """A randomly initialised model; seed torch first to make it reproducible."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=160, intermediate_size=640, num_hidden_layers=6, num_attention_heads=5,
        image_size=IMAGE_PIXELS, patch_size=PATCH_PIXELS, projection_dim=160,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=160, intermediate_size=448, num_hidden_layers=3, num_attention_heads=5,
        num_key_value_heads=5, vocab_size=len(tokenizer), max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_PIXELS // PATCH_PIXELS) ** 2,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save_for_vllm(model: PreTrainedModel, processor: ProcessorMixin, directory: Path) -> None:
    """Save model and processor so that both transformers and vLLM load them.

    transformers 5 writes `vision_tower.embeddings...`; vLLM expects the published checkpoints'
    name, `vision_tower.vision_model.embeddings...`, which transformers still reads.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    path = directory / "model.safetensors"
    if model.config.vision_config.model_type in _RENAMED_TOWERS:
        renamed = {_published_name(key): value for key, value in load_file(path).items()}
        save_file(renamed, path, metadata={"format": "pt"})
    # vLLM reads the dtype of the weights from the config.
    config_path = directory / "config.json"
    config = json.loads(config_path.read_text())
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _published_name(key: str) -> str:
    for prefix in ("vision_tower.", "model.vision_tower."):
        if key.startswith(prefix) and not key.startswith(prefix + "vision_model."):
            return prefix + "vision_model." + key.removeprefix(prefix)
    return key


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Normalize (B, H, W, 3) uint8 to (B, 3, H, W) float32, like CLIPImageProcessor."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    scaled = images.to(torch.float32).div_(255).sub_(mean).div_(std)
    return scaled.permute(0, 3, 1, 2).contiguous()
