"""Whatever embeds images and texts."""
