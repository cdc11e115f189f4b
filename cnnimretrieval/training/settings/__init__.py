"""The settings of the stage, of its loop and of the learning rate."""
