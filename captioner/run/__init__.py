"""Executing a captioning run, from its checks to its last shard."""

from captioner.run.session import CaptionResult, Progress, caption, run_either

__all__ = ["CaptionResult", "Progress", "caption", "run_either"]
