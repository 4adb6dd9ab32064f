"""Engines: what turns prepared images into text, behind one small protocol."""
