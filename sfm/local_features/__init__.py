"""Local features: found in a photo, and matched between two; SIFT is built in, others plug in."""
