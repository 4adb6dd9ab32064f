"""What is done with a flagged text: kept, generated again, or cut to a sentence."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from captioner.engine.protocol import Generation
from captioner.text.cleaning import clean_text, cut_reasoning
from captioner.text.quality import assess, trim_to_sentence
from data.errors import UsageError, UserError

# Flags that a second generation can fix; "short" or "duplicate" may be due to the image.
RETRIABLE = ("truncated", "loop", "refusal", "empty", "non_english", "garbled")


@dataclass(frozen=True)
class TextPolicy:
    """Part of a run's fingerprint. By default every text is kept unchanged.

    Attributes:
        retry_flags: texts with one of these flags are generated again; the better one is kept, and
            `attempt` in the row says which.
        repetition_penalty: for the second generation; 1 only changes the seed.
        trim: cut a truncated text back to its last full sentence; `trimmed` in the row says so, and
            the flag stays.
    """

    retry_flags: tuple[str, ...] = ()
    repetition_penalty: float = 1.1
    trim: bool = False

    def __post_init__(self) -> None:
        unknown = [flag for flag in self.retry_flags if flag not in RETRIABLE]
        if unknown:
            known = ", ".join(RETRIABLE)
            raise UserError(f"--retry-flagged accepts {known}, not {', '.join(unknown)}")
        if not 1 <= self.repetition_penalty <= 2:
            raise UserError("--repetition-penalty must be in [1, 2]")
        if not self.retry_flags and self.repetition_penalty != TextPolicy.repetition_penalty:
            raise UsageError("--repetition-penalty applies to second attempts: add --retry-flagged")

    def to_dict(self) -> dict[str, Any]:
        """For the fingerprint."""
        return {**asdict(self), "retry_flags": sorted(self.retry_flags)}

    def count_faults(self, generation: Generation) -> int:
        """The number of `retry_flags` that the text has."""
        if not self.retry_flags:
            return 0
        text = clean_text(cut_reasoning(generation.text))
        flags = assess(text, generation.finish_reason).flags
        return sum(flag in self.retry_flags for flag in flags)

    def choose(self, tries: Sequence[Generation]) -> tuple[int, Generation]:
        """Number (from 1) and value of the best attempt: fewest faults, first among equals."""
        faults = [self.count_faults(generation) for generation in tries]
        best = faults.index(min(faults))
        return best + 1, tries[best]

    def finish_text(self, generation: Generation) -> tuple[str, bool, bool]:
        """The final text, whether anything was cut off, and whether that was a sentence.

        The rest can be reasoning.
        """
        answer = cut_reasoning(generation.text)
        text = clean_text(answer)
        if self.trim and "truncated" in assess(text, generation.finish_reason).flags:
            shorter = trim_to_sentence(text)
            if shorter is not None and shorter != text:
                return shorter, True, True
        return text, answer != generation.text, False
