"""Vision-language models of a few hundred thousand random parameters, one of each family.

Configuration and tokenizer are our own; the templates put the image where each family's does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from captioner.llava_scenes.build import save_for_vllm

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
SIGLIP = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
_TEMPLATE = (
    "{{% for message in messages %}}{{{{ message['role'] + ': ' }}}}"
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{{{{ '{image}' }}}}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{{{ '\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}assistant:{{% endif %}}"
)


def build_tokenizer(special: dict[str, str], **options: Any) -> hf.PreTrainedTokenizerFast:
    """Bytes, and the family's own special tokens, by the names its processor asks for."""
    # Gemma's and PaliGemma's prompts are put together with these.
    ends = ["\n" * count for count in range(1, 5)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>", *dict.fromkeys(special.values())]
    vocabulary = {name: rank for rank, name in enumerate([*names, *ends, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(end, normalized=False) for end in ends])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=special,
        padding_side="left",
        **options,
    )


def _make_qwen(number: str) -> tuple[Any, Any]:
    special = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    tokenizer = build_tokenizer(special)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in special.items()}
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 64, "intermediate_size": 128}
    vision |= {
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "fullatt_block_indexes": [1],
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    if number == "3":
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [1]}
        del vision["fullatt_block_indexes"]
        text |= {"head_dim": 32}
        text["rope_parameters"]["mrope_interleaved"] = True
    config = getattr(hf, f"Qwen{number}VLConfig")(text_config=text, vision_config=vision, **ids)
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 64}
    images = hf.Qwen2VLImageProcessor(size=size, patch_size=14, merge_size=2)
    videos = (
        hf.Qwen2VLVideoProcessor() if number != "3" else hf.Qwen3VLVideoProcessor(patch_size=14)
    )
    processor = getattr(hf, f"Qwen{number}VLProcessor")(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        chat_template=_TEMPLATE.format(image="<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return config, processor


def _make_idefics(kind: str) -> tuple[Any, Any]:
    rows = {f"row_{r}_{c}": f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)}
    special = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "video_token": "<video>",
        **rows,
    }
    tokenizer = build_tokenizer(special)
    text = {**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)}
    config = getattr(hf, f"{kind}Config")(
        text_config=text,
        vision_config={**SIGLIP, "patch_size": 7},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = getattr(hf, f"{kind}ImageProcessor")(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
    )
    videos = {"video_processor": hf.SmolVLMVideoProcessor()} if kind == "SmolVLM" else {}
    processor = getattr(hf, f"{kind}Processor")(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_len=16,
        chat_template=_TEMPLATE.format(image="<image>"),
        **videos,
    )
    return config, processor


def _make_gemma() -> tuple[Any, Any]:
    special = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = build_tokenizer(special)
    text = {**TEXT, "vocab_size": len(tokenizer), "head_dim": 32, "query_pre_attn_scalar": 32}
    config = hf.Gemma3Config(
        text_config=text,
        vision_config={**SIGLIP, "vision_use_head": False},
        mm_tokens_per_image=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=_TEMPLATE.format(image="<start_of_image>"),
    )
    return config, processor


def _make_internvl() -> tuple[Any, Any]:
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = build_tokenizer(special)
    config = hf.InternVLConfig(
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config={**SIGLIP, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = hf.GotOcr2ImageProcessor(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = hf.InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=hf.InternVLVideoProcessor(size={"height": 56, "width": 56}),
        image_seq_length=4,
        chat_template=_TEMPLATE.format(image="<IMG_CONTEXT>"),
    )
    return config, processor


def _make_onevision() -> tuple[Any, Any]:
    tokenizer = build_tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grids = [[56, 56], [56, 112], [112, 56], [112, 112]]
    config = hf.LlavaOnevisionConfig(
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config={**SIGLIP, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    images = hf.LlavaOnevisionImageProcessor(
        size={"height": 56, "width": 56}, image_grid_pinpoints=grids
    )
    processor = hf.LlavaOnevisionProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=hf.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_TEMPLATE.format(image="<image>"),
    )
    return config, processor


def _make_llava_next() -> tuple[Any, Any]:
    tokenizer = build_tokenizer({"image_token": "<image>"})
    grids = [[56, 112], [112, 56], [112, 112]]
    config = hf.LlavaNextConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)},
        vision_config={**SIGLIP, "model_type": "clip_vision_model", "projection_dim": 64},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    side = {"height": 56, "width": 56}
    images = hf.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size=side, image_grid_pinpoints=grids
    )
    processor = hf.LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE.format(image="<image>"),
    )
    return config, processor


def _make_pixtral() -> tuple[Any, Any]:
    special = {"image_token": "[IMG]", "image_break": "[IMG_BREAK]", "image_end": "[IMG_END]"}
    tokenizer = build_tokenizer(special)
    config = hf.LlavaConfig(
        text_config={**TEXT, "model_type": "mistral", "vocab_size": len(tokenizer)},
        vision_config={
            "model_type": "pixtral", "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 112, "patch_size": 14,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )  # fmt: skip
    images = hf.PixtralImageProcessor(
        size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
    )
    processor = hf.PixtralProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        chat_template=_TEMPLATE.format(image="[IMG]"),
    )
    return config, processor


def _make_paligemma() -> tuple[Any, Any]:
    locations = {f"loc{n}": f"<loc{n:04}>" for n in range(4)}
    tokenizer = build_tokenizer({"image_token": "<image>", **locations}, add_bos_token=False)
    config = hf.PaliGemmaConfig(
        text_config={**TEXT, "model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 32},
        vision_config={**SIGLIP, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
    )
    images = hf.SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
    return config, processor


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2.5-vl": lambda: _make_qwen("2_5_"),
    "qwen3-vl": lambda: _make_qwen("3"),
    # SmolVLM's files name this architecture, too; those of SmolVLM2 the other.
    "idefics3": lambda: _make_idefics("Idefics3"),
    "smolvlm2": lambda: _make_idefics("SmolVLM"),
    "gemma3": _make_gemma,
    "internvl": _make_internvl,
    "llava-onevision": _make_onevision,
    "llava-1.6": _make_llava_next,
    "pixtral": _make_pixtral,
    "paligemma": _make_paligemma,
}


def save_model(family: str, folder: Path) -> Path:
    """A folder that transformers and vLLM load; its texts differ from image to image."""
    torch.manual_seed(0)
    config, processor = FAMILIES[family]()
    model = hf.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 and "norm" not in name and "embed" not in name:
                weights.mul_(6)
                if not weights.any():  # Gemma's projection of the image begins so
                    weights.normal_()
    save_for_vllm(model, processor, folder)
    return folder
