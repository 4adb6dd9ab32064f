"""Importing existing dense text into the shards of a captioning run."""
