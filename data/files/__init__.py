"""Files written whole, temporary files, locks and hashes."""
