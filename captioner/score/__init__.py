"""CLIPScore and CHAIR of a captioning run."""
