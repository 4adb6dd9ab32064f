"""The model: towers, pooling, decoder, tokenizer."""
