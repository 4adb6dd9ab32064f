"""Exports of a finished captioning run to other formats."""
