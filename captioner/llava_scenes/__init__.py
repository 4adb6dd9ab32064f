"""`llava-scenes`: a LLaVA of a few megabytes, trained on the generated scenes."""
