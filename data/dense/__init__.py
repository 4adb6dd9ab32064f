"""Reading a captioning run: shards of dense text, receipts, run.json."""
