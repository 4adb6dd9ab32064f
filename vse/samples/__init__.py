"""Images with their texts: finding, matching, reading, augmenting and batching them."""
