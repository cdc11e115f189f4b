"""Published data sets and networks: what there is, and how to get it safely."""
