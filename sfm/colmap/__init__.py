"""COLMAP behind one adapter: its calls, files and databases, and models that it made elsewhere."""
