"""The settings of a captioning run, checked before anything is written."""
