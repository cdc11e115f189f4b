"""3D models to training pairs: positives and hard negatives from camera geometry."""
