"""What benchmarks share: contenders, samples of photos, times taken in turns, verdicts."""
