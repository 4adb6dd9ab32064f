"""Human captions with their splits."""
