"""Photos to verified matches to 3D models: pycolmap lives here, behind one adapter."""
