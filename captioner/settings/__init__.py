"""All that can be known of a captioning run, and refused, before anything is written."""
