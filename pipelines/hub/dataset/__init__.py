"""A captioning run as a data set on the Hub: unchanged shards, and a card from its records."""
