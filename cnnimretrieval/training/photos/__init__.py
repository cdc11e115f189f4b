"""The photos that are learned from: which there are, which are drawn, what they are described as."""
