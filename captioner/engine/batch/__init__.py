"""Files in OpenAI's batch format as an engine: requests out, answers in, in any order."""

from captioner.engine.batch.engine import BatchEngine
from captioner.engine.batch.folder import list_answers

__all__ = ["BatchEngine", "list_answers"]
