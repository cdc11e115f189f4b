"""The search page and the API behind it: people look at what a network finds in their photos."""
