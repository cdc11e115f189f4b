"""What benchmarks work on: samples of photos, made-up places, finished runs."""
