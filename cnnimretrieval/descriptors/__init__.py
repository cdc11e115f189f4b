"""Images to descriptors: loading, extraction, whitening, storage."""
