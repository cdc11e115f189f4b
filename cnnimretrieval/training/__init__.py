"""Losses, tuples and the loop that fine-tunes a network on mined pairs."""
