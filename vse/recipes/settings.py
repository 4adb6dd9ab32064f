"""Every setting, a dataclass a section, and all sections together: `Recipe`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from data.settings.building import (
    one_of,
    require,
    require_not_negative,
    require_positive,
    require_share,
)

Freeze = int | str
STAGES = ("1", "2", "joint", "sparse")
# What is read of a text that is too long. cut: the first tokens. sentence: the first whole
# sentences. sample: whole sentences, drawn anew each time a training step reads the text, and the
# first ones at every other occasion.
WAYS = ("cut", "sentence", "sample")
DISTILLATIONS = ("cosine", "l1", "l2")
TEACHERS = ("cached", "online-eval", "online-train")


@dataclass(frozen=True)
class ImageTowerConfig:
    """A backbone by name, or built from nothing by `config`.

    name: a hub id or folder of transformers; timm:NAME with a timm name, hub id or folder;
    open_clip:ARCH/WEIGHTS, or open_clip: and a folder or hf-hub:ID.
    config: that of transformers (model_type, hidden_size, ...); library: timm with name and args;
    or library: open_clip with vision_cfg.
    mean, std: None = the backbone's own, and ImageNet's for those of transformers, as in the paper.
    """

    name: str | None = None  # whose weights training starts from
    config: dict[str, Any] | None = None  # instead of a name: random weights
    pretrained: bool = True  # false: the architecture of `name` alone, with random weights
    px: int = 384  # side of the square input of training and test
    antialias: bool = True  # of the resize; false: as released, cv2.resize (linear)
    token_drop: float = 0.2  # size augmentation; 0 switches it off
    mean: tuple[float, ...] | None = None  # of RGB in [0, 1]
    std: tuple[float, ...] | None = None  # of RGB in [0, 1]
    freeze: Freeze = "none"  # none | all | so many first blocks, with the embeddings
    checkpointing: bool = False  # activations are computed again instead of kept: memory for time

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "image needs either name or config")
        _check_freeze("image", self.freeze)
        for key in ("mean", "std"):
            values = getattr(self, key)
            require(values is None or len(values) == 3, f"image.{key} takes three numbers")
        require_positive("image", self, "std", "px")
        require(0 <= self.token_drop < 1, "image.token_drop must lie in [0, 1)")


@dataclass(frozen=True)
class TextTowerConfig:
    """As for images, but timm has no text towers, and an open_clip config has text_cfg.

    From nothing, the tokenizer is built from the training texts.
    """

    name: str | None = None  # whose weights and tokenizer training starts from
    config: dict[str, Any] | None = None  # instead of a name: random weights
    pretrained: bool = True  # false: the architecture and tokenizer of `name`, random weights
    vocab_size: int = 2000  # upper bound of a tokenizer built from the training texts
    max_tokens: int = 512  # the share of texts that are longer is printed
    too_long: str = "cut"  # what of them is read: cut | sentence | sample, see training.md
    dropout: float = 0.2  # on the backbone's last hidden states
    head_on_padding: bool = False  # as released: BatchNorm counts padding rows as words
    freeze: Freeze = "none"  # none | all | so many first blocks, with the embeddings
    checkpointing: bool = False  # activations are computed again instead of kept

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "text needs either name or config")
        _check_freeze("text", self.freeze)
        timm = (self.name or "").startswith("timm:") or (self.config or {}).get("library") == "timm"
        require(not timm, f"text.name is {self.name}, but timm has no text towers")
        one_of("text.too_long", self.too_long, WAYS)
        require_positive("text", self, "vocab_size")
        require(self.max_tokens >= 4, "text.max_tokens must be at least 4")
        require(0 <= self.dropout < 1, "text.dropout must lie in [0, 1)")


def _check_freeze(part: str, freeze: Freeze) -> None:
    known = freeze in ("none", "all") if isinstance(freeze, str) else freeze >= 0
    require(known, f"{part}.freeze is {freeze!r}; it must be none, all or a number of blocks")


@dataclass(frozen=True)
class DecoderConfig:
    """Stage 2: mask tokens beside the words, pre-norm transformer blocks, pooled to r.

    Or, as `kind` says, a single cross-attention from the tokens to the words.
    """

    kind: str = "blocks"  # blocks | cross_attention, which has no depth, mlp_ratio and placement
    tokens: int = 100  # mask tokens
    depth: int = 4  # blocks
    heads: int = 4  # of the blocks
    cross_heads: int = 8  # of the cross-attention
    mlp_ratio: float = 4.0  # hidden width of a block's MLP, in widths
    placement: str = "surround"  # prefix | postfix | surround: where the tokens stand
    attend_padding: bool = False  # as released: what a text becomes depends on its batch
    pooling: str = "mean"  # mean | gpo, over what the tokens have become
    residual: bool = True  # text embedding t + r, else r alone
    unit_at_test: bool = False  # as released: r is cut to length 1 when testing, never in training
    in_sparse: bool = False  # the baseline has one too: its capacity without dense text

    def __post_init__(self) -> None:
        one_of("decoder.kind", self.kind, ("blocks", "cross_attention"))
        one_of("decoder.placement", self.placement, ("prefix", "postfix", "surround"))
        one_of("decoder.pooling", self.pooling, ("mean", "gpo"))
        require_positive("decoder", self, "tokens", "heads", "cross_heads", "mlp_ratio")
        require_not_negative("decoder", self, "depth")

    def check_width(self, width: int) -> None:
        """UserError if the heads do not divide the joint width."""
        name = "heads" if self.kind == "blocks" else "cross_heads"
        heads = getattr(self, name)
        require(width % heads == 0, f"width {width} is no multiple of {heads} decoder.{name}")


@dataclass(frozen=True)
class LossConfig:
    """L = align + distill_weight * distill, each with its own reduction over the batch.

    With `distill_image`, + distill_image_weight * mean (1 - cos(v, target)): not the paper's.
    """

    align: str = "hinge"  # hinge | infonce | siglip
    align_reduction: str = "sum"  # of the hinge over the batch: sum | mean (sum / B)
    margin: float = 0.2  # of the hinge
    sum_epochs: int = 1  # hinge: epochs over all negatives, ramped up, before the hardest alone
    temperature: float = 0.07  # infonce: where the learnable temperature starts
    carry_scale: bool = True  # stage 2 goes on from the temperature, scale and bias of stage 1
    distill: str = "cosine"  # cosine | l1 | l2
    distill_reduction: str = "mean"  # mean | sum (mean * B)
    distill_weight: float = 1.0  # of the distillation beside the alignment
    distill_image: str | None = None  # what v is drawn to: dense (text's) or image (stage 1's v)
    distill_image_weight: float = 1.0  # of that on the image side
    on_collapse: str = "stop"  # stop | warn, when all embeddings are alike and stay so

    def __post_init__(self) -> None:
        one_of("loss.align", self.align, ("hinge", "infonce", "siglip"))
        one_of("loss.align_reduction", self.align_reduction, ("sum", "mean"))
        one_of("loss.distill", self.distill, DISTILLATIONS)
        one_of("loss.distill_reduction", self.distill_reduction, ("mean", "sum"))
        if self.distill_image is not None:
            one_of("loss.distill_image", self.distill_image, ("dense", "image"))
        one_of("loss.on_collapse", self.on_collapse, ("stop", "warn"))
        require_positive("loss", self, "temperature")
        weights = ("distill_weight", "distill_image_weight")
        require_not_negative("loss", self, "margin", "sum_epochs", *weights)


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher is stage 1's text tower on the dense text; no gradient ever reaches it.

    cached: embeddings of all dense texts, computed once.
    online-eval: the same embeddings, computed anew in each step.
    online-train: as the released code has it, in train mode: dropout on, BatchNorm's statistics
    moving, words of the dense text masked like the student's.
    """

    mode: str = "cached"  # cached | online-eval | online-train
    warm_start: bool = True  # the student's towers start from stage 1 as well, not anew

    def __post_init__(self) -> None:
        one_of("teacher.mode", self.mode, TEACHERS)


@dataclass(frozen=True)
class DataConfig:
    """What a sample is and how it is augmented."""

    items: str = "captions"  # an epoch counts captions, or images (one caption drawn each time)
    word_mask: float = 0.2  # share of basic words masked, replaced or deleted in training
    crop_min: float = 0.6  # side ratio of the random crop ~ U(crop_min, 1)
    flip: float = 0.5  # how often an image is mirrored
    cache_images: bool = False  # decode and resize once into one uint8 array on disk
    cache_tokens: bool = False  # frozen backbones read each image and text once, see training.md
    workers: int = 0  # loader processes; 0 = in the training process
    max_missing: float = 0.1  # share of a split's images that may lack a file or dense text
    captions_per_image: int | None = None  # only the first so many; None = all
    select_split: str = "val"  # val | test (as released): whose rSum picks the best epoch
    sentences: int | None = None  # stage 1: a step reads 1 to so many of a dense text's; None = all
    bucket: int | None = None  # so many batches are sorted by text length together; None = none are
    texts_per_step: int = 1  # of each image, all positives: captions, or in stage 1 drawings

    def __post_init__(self) -> None:
        one_of("data.items", self.items, ("captions", "images"))
        one_of("data.select_split", self.select_split, ("val", "test"))
        require_share("data", self, "word_mask", "flip", "max_missing")
        require(0 < self.crop_min <= 1, "data.crop_min must lie in (0, 1]")
        require_positive("data", self, "captions_per_image", "sentences", "texts_per_step")
        require_not_negative("data", self, "workers")
        require(self.bucket is None or self.bucket > 1, "data.bucket must be at least 2")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule, and how long."""

    batch_size: int = 128  # global: all processes together
    epochs: int = 30  # an epoch is all items once, see data.items
    steps: int | None = None  # when set, decides instead of epochs
    lr: float = 2e-4  # heads and decoder
    scale_lr: float | None = None  # temperature, SigLIP's scale and bias; None = lr
    backbone_lr: float = 2e-5  # both backbones
    layer_decay: float = 1.0  # of backbone_lr, once more for each block further from the head
    weight_decay: float = 1e-4  # of AdamW, on every weight that is trained
    schedule: str = "step"  # step | cosine | constant
    milestones: tuple[int, ...] = (9, 15, 20, 25)  # schedule step: epochs, counted from 0
    gamma: float = 0.3  # schedule step: what each milestone multiplies the rates by
    warmup_steps: int = 0  # over which the rates rise linearly
    clip: float = 2.0  # of the gradient norm
    clip_scaled: bool = False  # as released: fp16 gradients are clipped with the loss scale in them
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    eps: float = 1e-8  # of AdamW
    ema: float | None = None  # decay of averaged weights (0.999): they are evaluated and kept
    chunk: int | None = None  # pairs that a process embeds at a time, to save memory; None = all
    precision: str = "fp32"  # fp32 | bf16 | fp16 (a GPU alone) | auto: as the machine has them
    eval_every: int | None = None  # steps; None = every epoch
    patience: int | None = None  # evaluations without a better rSum before training ends early
    log_every: int = 10  # steps; the only moments at which the loss is read from the device
    save_minutes: float = 10.0  # the state is saved when it is older, besides at evaluations
    seed: int = 0  # of weights, order and augmentation

    def __post_init__(self) -> None:
        one_of("optim.schedule", self.schedule, ("step", "cosine", "constant"))
        one_of("optim.precision", self.precision, ("fp32", "bf16", "fp16", "auto"))
        require(0 < self.layer_decay <= 1, "optim.layer_decay must lie in (0, 1]")
        require(self.batch_size >= 2, "optim.batch_size must be at least 2: no negatives else")
        counts = ("epochs", "steps", "eval_every", "log_every", "patience", "chunk")
        require_positive("optim", self, *counts, "save_minutes", "gamma", "clip", "eps")
        rates = ("lr", "scale_lr", "backbone_lr", "weight_decay")
        require_not_negative("optim", self, *rates, "milestones", "warmup_steps", "seed")
        require(len(self.betas) == 2, "optim.betas must be two numbers")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas must lie in [0, 1)")
        require(self.ema is None or 0 < self.ema < 1, "optim.ema must lie between 0 and 1")


@dataclass(frozen=True)
class Recipe:
    """One stage's complete settings; a section that is not given has its defaults."""

    image: ImageTowerConfig
    text: TextTowerConfig
    width: int = 512  # D, the joint width
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        require(self.width > 1, f"width is {self.width}; it must be at least 2")
        self.decoder.check_width(self.width)
        if self.data.cache_tokens:
            self._check_tokens()

    def _check_tokens(self) -> None:
        """UserError if a backbone's tokens would differ from step to step."""
        wanted = {
            "image.freeze": (self.image.freeze, "all"),
            "text.freeze": (self.text.freeze, "all"),
            "text.head_on_padding": (self.text.head_on_padding, False),
            "data.crop_min": (self.data.crop_min, 1.0),
            "data.flip": (self.data.flip, 0.0),
            "data.word_mask": (self.data.word_mask, 0.0),
            "data.sentences": (self.data.sentences, None),
        }
        odd = [f"{name}={shown}" for name, (value, shown) in wanted.items() if value != shown]
        odd += ["text.too_long=cut"] if self.text.too_long == "sample" else []
        require(
            not odd,
            "data.cache_tokens keeps what frozen backbones make of unchanged images and texts: set "
            + ", ".join(odd).replace("None", "null").replace("False", "false"),
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
