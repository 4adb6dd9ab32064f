"""Sampling settings, and the seed of each image."""

import hashlib
from dataclasses import dataclass

from data.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """The paper's settings (D2S-VSE: temperature 0.2, top-p 0.9, at most 512 new tokens).

    Temperature 0 is greedy. Without a seed, sampling is random.
    """

    temperature: float = 0.2
    top_p: float = 0.9
    max_tokens: int = 512
    seed: int | None = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise UserError(f"--temperature must be in [0, 2], not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must be in (0, 1], not {self.top_p}")
        if self.max_tokens < 1:
            raise UserError(f"--max-tokens must be at least 1, not {self.max_tokens}")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"--seed must not be negative, not {self.seed}")


def derive_seed(run_seed: int | None, sample_id: str, *, attempt: int = 1) -> int | None:
    """A seed in [0, 2**32) that only depends on the run's seed, the image's id and the attempt.

    So texts do not depend on the order of images or the composition of batches. None if the run has
    no seed.
    """
    if run_seed is None:
        return None
    again = "" if attempt == 1 else f"\0{attempt}"
    digest = hashlib.sha256(f"{run_seed}\0{sample_id}{again}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
