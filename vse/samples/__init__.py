"""Images with their texts: found, joined, read, augmented, batched."""
