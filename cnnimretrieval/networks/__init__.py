"""Trunks, pooling, and the network that turns an image into one unit vector."""
