"""Settings of stage 2's teacher."""

from __future__ import annotations

from dataclasses import dataclass

from vse.recipes.checks import one_of

MODES = ("cached", "online-eval", "online-train")


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
        one_of("teacher.mode", self.mode, MODES)
