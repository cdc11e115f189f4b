"""How benchmarks measure: times taken in turns, processes, hashes of results, verdicts."""
