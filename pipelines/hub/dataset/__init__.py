"""A captioning run as a data set of the Hub: its shards as they are, and a card of its records."""
