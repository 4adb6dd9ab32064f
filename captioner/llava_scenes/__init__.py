"""`llava-scenes`: a LLaVA of a few megabytes that truly sees the generated scenes."""
