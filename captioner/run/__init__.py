"""One go at a captioning run."""
