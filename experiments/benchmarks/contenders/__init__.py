"""What takes part in a benchmark: our own way of doing something, and the plain ones beside it."""
