"""Prepared images -> texts, behind one protocol."""
