"""A tiny CLIP with random weights, as open_clip reads one: configuration and safetensors file."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_clip(folder: Path) -> tuple[Path, Path]:
    """Write tiny.json and tiny.safetensors, and both again as a folder `whole`; the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "tiny.json", folder / "tiny.safetensors"
    config.write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), weights)
    (folder / "whole").mkdir()
    whole = {"model_cfg": CONFIG, "preprocess_cfg": {}}
    (folder / "whole/open_clip_config.json").write_text(json.dumps(whole))
    (folder / "whole/open_clip_model.safetensors").write_bytes(weights.read_bytes())
    return config, weights
