"""What tells people how a training goes and where its time went."""
