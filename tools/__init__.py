"""What is run beside the product: set-up, locks, the README's figures, checks of a release."""
