"""A small photo collection that the project renders itself, with true poses and places."""
