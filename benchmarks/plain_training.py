"""Stage 2 in a plain script: the released recipe, without any caching.

A loop over images drops tokens; GPO's GRU runs for every sample of every step; the teacher reads
the dense text in every step; texts are tokenized and masked in the loader; each image is decoded
and normalized separately; the loss is read in every step. The layers are those of the same towers
(transformers) and PyTorch's own.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class PlainGPO(nn.Module):
    """Codes of all ranks of all samples -> GRU -> softmax, in every call."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(width, 1, bias=False)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, D) and (B,) -> (B, D)."""
        batch, longest, _ = features.shape
        mask = torch.arange(longest, device=features.device)[None] < lengths[:, None]
        code = self.code(longest).to(features.device).unsqueeze(0).repeat(batch, 1, 1)
        packed = pack_padded_sequence(code, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        states = (states[..., : self.width] + states[..., self.width :]) / 2
        scores = self.linear(states).masked_fill(~mask[..., None], -10000)
        weights = torch.softmax(scores / 0.1, dim=1)
        ordered = features.masked_fill(~mask[..., None], -10000).sort(dim=1, descending=True)[0]
        return (ordered.masked_fill(~mask[..., None], 0) * weights).sum(dim=1)

    def code(self, longest: int) -> Tensor:
        """(L, width) sinusoidal."""
        table = torch.zeros(longest, self.width)
        rank = torch.arange(longest).unsqueeze(1)
        steps = torch.exp(torch.arange(0, self.width, 2) * -(math.log(10000.0) / self.width))
        table[:, 0::2], table[:, 1::2] = torch.sin(rank * steps), torch.cos(rank * steps)
        return table


class PlainImageTower(nn.Module):
    """Backbone, linear head, tokens dropped in a loop, GPO."""

    def __init__(self, backbone: nn.Module, hidden: int, width: int) -> None:
        super().__init__()
        self.backbone, self.fc, self.pool = backbone, nn.Linear(hidden, width), PlainGPO()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        states = self.backbone(images, interpolate_pos_encoding=True).last_hidden_state
        tokens = self.fc(states)
        kept = []
        for row in tokens:
            chance = random.random()
            if chance > 0.2:
                row = row[torch.rand(len(row), device=row.device) >= 0.2 * chance]
            kept.append(row)
        lengths = torch.tensor([len(row) for row in kept], device=tokens.device)
        padded = torch.zeros(len(kept), int(lengths.max()), tokens.shape[2], device=tokens.device)
        for index, row in enumerate(kept):
            padded[index, : len(row)] = row
        return nn.functional.normalize(self.pool(padded, lengths), dim=-1)


class PlainTextTower(nn.Module):
    """Backbone, dropout, linear + MLP per token (padding included), GPO, LayerNorm."""

    def __init__(self, backbone: nn.Module, hidden: int, width: int) -> None:
        super().__init__()
        self.backbone, self.dropout = backbone, nn.Dropout(0.2)
        self.fc, self.first = nn.Linear(hidden, width), nn.Linear(hidden, width // 2)
        self.bn, self.second = nn.BatchNorm1d(width // 2), nn.Linear(width // 2, width)
        self.pool, self.norm = PlainGPO(), nn.LayerNorm(width)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) and (B,) -> t (B, D), w (B, L, D)."""
        states = self.backbone(ids, attention_mask=(ids != 0).float()).last_hidden_state
        states = self.dropout(states)
        batch, length, _ = states.shape
        hidden = self.first(states).view(batch * length, -1)
        hidden = self.second(torch.relu(self.bn(hidden))).view(batch, length, -1)
        words = self.fc(states) + hidden
        return self.norm(self.pool(words, lengths)), words


class PlainModel(nn.Module):
    """Both towers, the decoder with tokens after the words, and the teacher."""

    def __init__(
        self,
        image: PlainImageTower,
        text: PlainTextTower,
        *,
        width: int,
        decoder: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.tokens = nn.Parameter(torch.randn(1, decoder["tokens"], width))
        layer = nn.TransformerEncoderLayer(
            width,
            decoder["heads"],
            dim_feedforward=int(decoder["mlp_ratio"] * width),
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(width)
        self.blocks = nn.TransformerEncoder(
            layer, decoder["depth"], norm, enable_nested_tensor=False
        )
        self.teacher = copy.deepcopy(text).requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """-> alignment (the hardest negatives) and distillation."""
        v = self.image(batch["images"])
        t, words = self.text(batch["ids"], batch["lengths"])
        tokens = self.tokens.expand(len(words), -1, -1)
        filled = self.blocks(torch.cat([words, tokens], dim=1))
        t = t + filled[:, words.shape[1] :].mean(dim=1)
        with torch.no_grad():
            dense, _ = self.teacher(batch["dense_ids"], batch["dense_lengths"])
        scores = v @ nn.functional.normalize(t, dim=-1).T
        own = scores.diag()
        same = batch["index"][:, None] == batch["index"][None, :]
        by_row = (0.2 + scores - own[:, None]).clamp(min=0).masked_fill(same, 0).max(dim=1)[0]
        by_column = (0.2 + scores - own[None, :]).clamp(min=0).masked_fill(same, 0).max(dim=0)[0]
        distill = 1 - nn.functional.cosine_similarity(t, dense, dim=-1).mean()
        return by_row.sum() + by_column.sum(), distill


class PlainPairs(Dataset[dict[str, Any]]):
    """Image, one caption and the dense text: read, cropped, tokenized and masked on access."""

    def __init__(self, folder: Path, *, px: int, vocabulary: Mapping[str, int]) -> None:
        names = json.loads((folder / "id_mapping.json").read_text())
        ids = (folder / "train_ids.txt").read_text().split()
        self.files = [folder / "images" / names[name] for name in ids]
        self.captions = (folder / "train_caps.txt").read_text().splitlines()
        dense = (folder / "f30k_train.jsonl").read_text().splitlines()
        self.dense = [json.loads(line)["text"] for line in dense]
        self.px, self.vocabulary = px, vocabulary

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, item: int) -> dict[str, Any]:
        index = item // 5
        image = Image.open(self.files[index]).convert("RGB")
        share = random.uniform(0.6, 1.0)
        width, height = int(image.width * share), int(image.height * share)
        left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.px, self.px), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(self.px, self.px, 3).permute(2, 0, 1).float() / 255
        pixels = (pixels - MEAN[:, None, None]) / STD[:, None, None]
        sparse, dense = self.encode(self.captions[item]), self.encode(self.dense[index])
        return {"image": pixels, "ids": sparse, "dense": dense, "index": index}

    def encode(self, text: str) -> Tensor:
        """Basic words -> pieces, one word in five masked, replaced or deleted."""
        ids = [self.vocabulary["[CLS]"]]
        for word in re.findall(r"\w+|[^\w\s]", text.lower()):
            pieces = self.pieces(word)
            draw = random.random()
            if draw < 0.2:
                draw /= 0.2
                if draw < 0.5:
                    ids += [self.vocabulary["[MASK]"]] * len(pieces)
                elif draw < 0.6:
                    ids += [random.randrange(len(self.vocabulary)) for _ in pieces]
            else:
                ids += pieces
        return torch.tensor([*ids, self.vocabulary["[SEP]"]])

    def pieces(self, word: str) -> list[int]:
        """Greedy longest match, as in WordPiece."""
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if piece in self.vocabulary:
                    found.append(self.vocabulary[piece])
                    start = end
                    break
            else:
                return [self.vocabulary["[UNK]"]]
        return found


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Pad both texts to the longest of the batch."""
    batch = {
        "images": torch.stack([sample["image"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
    }
    for key, name in (("ids", ""), ("dense", "dense_")):
        rows = [sample[key] for sample in samples]
        batch[f"{name}ids"] = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        batch[f"{name}lengths"] = torch.tensor([len(row) for row in rows])
    return batch


def train_plainly(
    model: PlainModel,
    pairs: PlainPairs,
    *,
    batch_size: int,
    steps: int,
    workers: int,
    precision: str,
    device: torch.device,
) -> list[float]:
    """Train `steps` steps; returns their end times, in s."""
    model.to(device).train()  # the teacher too, as released
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=1e-4)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    loader = DataLoader(
        pairs,
        batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    ends: list[float] = []
    while len(ends) < steps:
        for batch in loader:
            moved = {key: value.to(device) for key, value in batch.items()}
            with torch.autocast(device.type, half, enabled=half is not None):
                align, distill = model(moved)
                loss = align + distill
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 2.0)
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise RuntimeError("the loss is not finite")
            ends.append(time.perf_counter())
            if len(ends) == steps:
                break
    return ends
