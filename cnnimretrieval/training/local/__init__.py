"""The local head: its settings, what geometry teaches it, its losses and its training."""
