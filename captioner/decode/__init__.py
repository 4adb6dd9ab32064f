"""Decoding images ahead of the engine, in separate processes."""
