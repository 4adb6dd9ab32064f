"""What retrieval makes of embeddings: measures, protocols, files. Imports no torch."""
