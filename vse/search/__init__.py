"""Embeddings of many images or texts in a Parquet file, and nearest-neighbor search."""
