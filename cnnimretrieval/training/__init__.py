"""Fine-tuning on mined pairs: the stage, and a room for each of its parts."""
