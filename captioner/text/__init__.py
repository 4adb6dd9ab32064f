"""What a text looks like: flags, language, sentences, duplicates."""
