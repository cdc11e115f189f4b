"""What an example brings for losses beside that of the examples."""
