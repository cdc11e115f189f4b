"""Learned local features: networks that find keypoints and describe them, for the reconstruction."""
