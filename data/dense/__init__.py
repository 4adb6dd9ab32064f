"""A captioning run as its readers see it: shards of dense text, receipts, run.json."""
