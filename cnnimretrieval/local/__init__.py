"""Local features: where they lie in photos, how they are found, kept and read."""
