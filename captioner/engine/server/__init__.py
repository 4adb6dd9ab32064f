"""OpenAI-compatible servers as an engine: `ServerEngine`, and what they say they serve."""

from captioner.engine.server.engine import ServerEngine
from captioner.engine.server.served import describe_servers

__all__ = ["ServerEngine", "describe_servers"]
