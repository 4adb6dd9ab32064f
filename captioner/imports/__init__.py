"""Dense text that exists already, brought into the shards of a captioning run."""
