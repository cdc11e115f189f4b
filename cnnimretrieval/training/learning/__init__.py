"""The loop: examples drawn and mined, batches, steps, and all that they change."""
