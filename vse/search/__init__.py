"""Embeddings of many images or texts in a Parquet file, and the nearest of them to a query."""
