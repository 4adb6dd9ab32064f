"""Retrieval evaluation of embeddings: measures, protocols, files. Does not import torch."""
