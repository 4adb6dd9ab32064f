"""A training run: settled, trained, logged, continued."""
