"""Whitening of descriptors: estimated, applied, kept in a file."""
