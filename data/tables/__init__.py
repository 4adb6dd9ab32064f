"""Tables of texts: rows of any kind of file, and the texts to embed in them."""
