"""The whitenings of a run and the rows that prove a network, as each could be handed out."""
