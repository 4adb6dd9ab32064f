"""All settings: one dataclass per section, and `Recipe` with all sections."""

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
# How texts that are too long are shortened. cut: keep the first tokens. sentence: keep the first
# whole sentences. sample: a new sample of whole sentences in each training step, otherwise like
# sentence.
WAYS = ("cut", "sentence", "sample")
DISTILLATIONS = ("cosine", "l1", "l2")
TEACHERS = ("cached", "online-eval", "online-train")


@dataclass(frozen=True)
class ImageTowerConfig:
    """A pretrained backbone by name, or one trained from scratch by `config`.

    name: a hub id or folder of transformers; timm:NAME with a timm name, hub id or folder;
    open_clip:ARCH/WEIGHTS, or open_clip: and a folder or hf-hub:ID; llava:NAME for the vision tower
    of a LLaVA, NAME llava-scenes, a hub id or a folder.
    config: that of transformers (model_type, hidden_size, ...); library: timm with name and args;
    or library: open_clip with vision_cfg.
    mean, std: None = the backbone's own, and ImageNet's for those of transformers, as in the paper.
    """

    name: str | None = None  # pretrained model to start from
    config: dict[str, Any] | None = None  # architecture to train from scratch, instead of a name
    pretrained: bool = True  # false: the architecture of `name` with random weights
    px: int = 384  # input size in pixels, for training and test
    antialias: bool = True  # antialiased resizing; false: as released, cv2.resize (linear)
    token_drop: float = 0.2  # size augmentation; 0 turns it off
    mean: tuple[float, ...] | None = None  # mean of RGB in [0, 1] for normalization
    std: tuple[float, ...] | None = None  # standard deviation of RGB in [0, 1] for normalization
    freeze: Freeze = "none"  # none | all | number of first blocks to freeze, with the embeddings
    lora: int | None = None  # rank of low-rank adapters, trained in the backbone's place
    checkpointing: bool = False  # recompute activations to save memory

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "image needs either name or config")
        _check_freeze("image", self)
        for key in ("mean", "std"):
            values = getattr(self, key)
            require(values is None or len(values) == 3, f"image.{key} must be three numbers")
        require_positive("image", self, "std", "px")
        require(0 <= self.token_drop < 1, "image.token_drop must lie in [0, 1)")


@dataclass(frozen=True)
class TextTowerConfig:
    """As for images, but timm: and llava: have no text towers, and open_clip configs have text_cfg.

    With a config, the tokenizer is built from the training texts.
    """

    name: str | None = None  # pretrained model to start from, with its tokenizer
    config: dict[str, Any] | None = None  # architecture to train from scratch, instead of a name
    pretrained: bool = True  # false: architecture and tokenizer of `name`, random weights
    vocab_size: int = 2000  # maximum size of a tokenizer built from the training texts
    max_tokens: int = 512  # maximum length of a text in tokens
    positions: int | None = None  # positions of a CLIP text tower, stretched; None = its own
    too_long: str = "cut"  # how longer texts are shortened: cut | sentence | sample
    dropout: float = 0.2  # dropout on the backbone's last hidden states
    head_on_padding: bool = False  # as released: padding enters BatchNorm
    freeze: Freeze = "none"  # none | all | number of first blocks to freeze, with the embeddings
    lora: int | None = None  # rank of low-rank adapters, trained in the backbone's place
    checkpointing: bool = False  # recompute activations to save memory

    def __post_init__(self) -> None:
        require(bool(self.name) != bool(self.config), "text needs either name or config")
        _check_freeze("text", self)
        timm = (self.name or "").startswith("timm:") or (self.config or {}).get("library") == "timm"
        require(not timm, f"text.name is {self.name}, but timm has no text towers")
        llava = (self.name or "").startswith("llava:")
        require(not llava, f"text.name is {self.name}, but llava: is for image towers")
        one_of("text.too_long", self.too_long, WAYS)
        require_positive("text", self, "vocab_size", "positions")
        require(self.max_tokens >= 4, "text.max_tokens must be at least 4")
        require(0 <= self.dropout < 1, "text.dropout must lie in [0, 1)")


def _check_freeze(part: str, tower: ImageTowerConfig | TextTowerConfig) -> None:
    freeze = tower.freeze
    require_positive(part, tower, "lora")
    require(
        tower.lora is None or freeze == "none",
        f"{part}.lora freezes everything but its adapters: omit {part}.freeze",
    )
    known = freeze in ("none", "all") if isinstance(freeze, str) else freeze >= 0
    require(known, f"{part}.freeze is {freeze!r}; it must be none, all or a number of blocks")


@dataclass(frozen=True)
class DecoderConfig:
    """Stage 2: mask tokens around the words, pre-norm transformer blocks, pooled to r.

    With kind cross_attention, a single cross-attention from the tokens to the words.
    """

    kind: str = "blocks"  # blocks | cross_attention (without depth, mlp_ratio, placement)
    tokens: int = 100  # number of mask tokens
    depth: int = 4  # number of blocks
    heads: int = 4  # attention heads of the blocks
    cross_heads: int = 8  # attention heads of the cross-attention
    mlp_ratio: float = 4.0  # hidden width of the MLP, relative to the width
    placement: str = "surround"  # position of the mask tokens: prefix | postfix | surround
    attend_padding: bool = False  # as released: attend to padding
    pooling: str = "mean"  # pooling of the mask tokens: mean | gpo
    residual: bool = True  # text embedding is t + r; false: r alone
    unit_at_test: bool = False  # as released: normalize r at test time only
    in_sparse: bool = False  # give the baseline (stage sparse) a decoder too

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
        require(width % heads == 0, f"width {width} is not a multiple of {heads} decoder.{name}")


@dataclass(frozen=True)
class LossConfig:
    """L = align + distill_weight * distill, each with its own reduction over the batch.

    Not in the paper: with `distill_image`, + distill_image_weight * mean (1 - cos(v, target)).
    """

    align: str = "hinge"  # alignment loss: hinge | infonce | siglip
    align_reduction: str = "sum"  # reduction of the hinge over the batch: sum | mean
    margin: float = 0.2  # margin of the hinge
    sum_epochs: int = 1  # hinge: epochs with all negatives, before only the hardest
    temperature: float = 0.07  # infonce: initial temperature; it is learned and at least 0.01
    positives: str = "apart"  # infonce, several texts of an image: apart | supcon | milnce
    widths: tuple[int, ...] = ()  # also align these prefixes of the embeddings
    carry_scale: bool = True  # stage 2 starts with temperature, scale and bias of stage 1
    distill: str = "cosine"  # distillation loss: cosine | l1 | l2
    distill_reduction: str = "mean"  # reduction of the distillation: mean | sum
    distill_weight: float = 1.0  # weight of the distillation
    distill_image: str | None = None  # also distill images, from dense (text) or image
    distill_image_weight: float = 1.0  # weight of the image distillation
    on_collapse: str = "stop"  # stop | warn if all embeddings become alike

    def __post_init__(self) -> None:
        one_of("loss.align", self.align, ("hinge", "infonce", "siglip"))
        one_of("loss.positives", self.positives, ("apart", "supcon", "milnce"))
        require(
            self.positives == "apart" or self.align == "infonce",
            f"loss.positives is {self.positives}, but loss.align {self.align} has no softmax for "
            "several texts: set loss.align=infonce",
        )
        one_of("loss.align_reduction", self.align_reduction, ("sum", "mean"))
        one_of("loss.distill", self.distill, DISTILLATIONS)
        one_of("loss.distill_reduction", self.distill_reduction, ("mean", "sum"))
        if self.distill_image is not None:
            one_of("loss.distill_image", self.distill_image, ("dense", "image"))
        one_of("loss.on_collapse", self.on_collapse, ("stop", "warn"))
        require_positive("loss", self, "temperature", "widths")
        weights = ("distill_weight", "distill_image_weight")
        require_not_negative("loss", self, "margin", "sum_epochs", *weights)


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher: stage 1's text tower on the dense text, not trained.

    cached: embeddings of all dense texts, computed once.
    online-eval: the same embeddings, computed in each step.
    online-train: as in the released code: with dropout, updates of BatchNorm, and masked words.
    """

    mode: str = "cached"  # how the teacher's embeddings are computed, see above
    warm_start: bool = True  # start the student's towers from stage 1 too

    def __post_init__(self) -> None:
        one_of("teacher.mode", self.mode, TEACHERS)


@dataclass(frozen=True)
class DataConfig:
    """Samples and their augmentation."""

    items: str = "captions"  # unit of an epoch: captions | images (a random caption each)
    word_mask: float = 0.2  # share of words that are masked, replaced or removed
    crop_min: float = 0.6  # random crop: side ratio ~ U(crop_min, 1)
    flip: float = 0.5  # probability of a horizontal flip
    cache_images: bool = False  # keep resized images in one uint8 array on disk
    cache_tokens: bool = False  # frozen backbones: keep their tokens on disk, see training.md
    workers: int = 0  # loader processes; 0 = load in the training process
    max_missing: float = 0.1  # share of a split's images that may be unusable
    captions_per_image: int | None = None  # use only the first captions of an image; None = all
    select_split: str = "val"  # split that selects the best weights: val | test (as released)
    sentences: int | None = None  # stage 1, joint: read 1 to this many random sentences; None = all
    split_dense: bool = False  # stage 1: each sentence is a text of its own
    bucket: int | None = None  # sort this many batches by text length; None = do not sort
    texts_per_step: int = 1  # texts per image in a step, all positives
    texts: tuple[str, ...] | None = None  # dense texts by name, if there are several
    sparse_text: str | None = None  # the named text to use instead of captions

    def __post_init__(self) -> None:
        one_of("data.items", self.items, ("captions", "images"))
        one_of("data.select_split", self.select_split, ("val", "test"))
        require_share("data", self, "word_mask", "flip", "max_missing")
        require(0 < self.crop_min <= 1, "data.crop_min must lie in (0, 1]")
        require_positive("data", self, "captions_per_image", "sentences", "texts_per_step")
        require_not_negative("data", self, "workers")
        require(self.bucket is None or self.bucket > 1, "data.bucket must be at least 2")
        require(
            not self.split_dense or self.sentences is None,
            "data.split_dense makes each sentence a text, and data.sentences draws some sentences "
            "of a text: set only one of them",
        )
        names = self.texts
        require(self.sparse_text != "", "data.sparse_text is empty: name a text, or leave it out")
        known = names is None or (len(names) == len(set(names)) > 0 and "" not in names)
        require(known, f"data.texts is {list(names or ())}; it must be a list of different names")


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, schedule and length of the training."""

    batch_size: int = 128  # global batch size, over all processes
    epochs: int = 30  # number of epochs, see data.items
    steps: int | None = None  # number of steps, instead of epochs
    lr: float = 2e-4  # learning rate of heads and decoder
    scale_lr: float | None = None  # learning rate of temperature, scale and bias; None = lr
    backbone_lr: float = 2e-5  # learning rate of both backbones
    layer_decay: float = 1.0  # factor of backbone_lr for each block further from the head
    weight_decay: float = 1e-4  # weight decay of AdamW, on all weights
    schedule: str = "step"  # learning rate schedule: step | cosine | constant
    milestones: tuple[int, ...] = (9, 15, 20, 25)  # schedule step: epochs, counted from 0
    gamma: float = 0.3  # schedule step: factor at each milestone
    warmup_steps: int = 0  # steps of linear warmup
    clip: float = 2.0  # maximum gradient norm
    clip_scaled: bool = False  # as released: clip fp16 gradients before unscaling
    betas: tuple[float, float] = (0.9, 0.999)  # betas of AdamW
    eps: float = 1e-8  # eps of AdamW
    ema: float | None = None  # decay of averaged weights, such as 0.999; None = no averaging
    chunk: int | None = None  # pairs embedded at a time, to save memory; None = all
    precision: str = "fp32"  # fp32 | bf16 | fp16 (GPU only) | auto (what the machine has)
    eval_every: int | None = None  # steps between evaluations; None = every epoch
    patience: int | None = None  # stop after this many evaluations without a better rSum
    log_every: int = 10  # steps between log entries
    save_minutes: float = 10.0  # minutes between saved states, besides evaluations
    seed: int = 0  # random seed of weights, order and augmentation

    def __post_init__(self) -> None:
        one_of("optim.schedule", self.schedule, ("step", "cosine", "constant"))
        one_of("optim.precision", self.precision, ("fp32", "bf16", "fp16", "auto"))
        require(0 < self.layer_decay <= 1, "optim.layer_decay must lie in (0, 1]")
        require(
            self.batch_size >= 2, "optim.batch_size must be at least 2, or there are no negatives"
        )
        counts = ("epochs", "steps", "eval_every", "log_every", "patience", "chunk")
        require_positive("optim", self, *counts, "save_minutes", "gamma", "clip", "eps")
        rates = ("lr", "scale_lr", "backbone_lr", "weight_decay")
        require_not_negative("optim", self, *rates, "milestones", "warmup_steps", "seed")
        require(len(self.betas) == 2, "optim.betas must be two numbers")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas must lie in [0, 1)")
        require(self.ema is None or 0 < self.ema < 1, "optim.ema must lie between 0 and 1")
        require(self.seed < 2**32, "optim.seed must be less than 2**32")


@dataclass(frozen=True)
class Recipe:
    """The complete settings of one stage; omitted sections have their defaults."""

    image: ImageTowerConfig
    text: TextTowerConfig
    width: int = 512  # joint width D
    heads: str = "random"  # projections, scale and bias at the start: random | clip
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        require(self.width > 1, f"width is {self.width}; it must be at least 2")
        one_of("heads", self.heads, ("random", "clip"))
        self.decoder.check_width(self.width)
        widths = (*self.loss.widths, self.width)
        require(
            list(widths) == sorted(set(widths)),
            f"loss.widths is {list(self.loss.widths)}; it must be increasing and below the width "
            f"{self.width}",
        )
        if self.data.cache_tokens:
            self._check_tokens()

    def _check_tokens(self) -> None:
        """UserError if no backbone is frozen, or a frozen one's tokens differ between steps."""
        image, text = self.image.freeze == "all", self.text.freeze == "all"
        require(
            image or text,
            "data.cache_tokens keeps the tokens of frozen backbones, and none is frozen: set "
            "image.freeze=all or text.freeze=all",
        )
        wanted: dict[str, tuple[object, object]] = {}
        if image:
            wanted |= {
                "data.crop_min": (self.data.crop_min, 1.0),
                "data.flip": (self.data.flip, 0.0),
            }
        if text:
            wanted |= {
                "text.head_on_padding": (self.text.head_on_padding, False),
                "data.word_mask": (self.data.word_mask, 0.0),
                "data.sentences": (self.data.sentences, None),
            }
        odd = [f"{name}={shown}" for name, (value, shown) in wanted.items() if value != shown]
        odd += ["text.too_long=cut"] if text and self.text.too_long == "sample" else []
        require(
            not odd,
            "data.cache_tokens keeps what frozen backbones make of unchanged images and texts: set "
            + ", ".join(odd).replace("None", "null").replace("False", "false"),
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
