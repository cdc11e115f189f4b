"""Settings of a run: protocols, published rows, and what is said of wrong ones."""
