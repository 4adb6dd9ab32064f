"""The folder of a captioning run."""
