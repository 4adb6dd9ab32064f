"""Properties of texts: flags, language, duplicates."""
