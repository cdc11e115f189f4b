"""Image-retrieval networks: training, descriptors, search, evaluation."""
