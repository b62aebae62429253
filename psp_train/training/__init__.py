"""The training of an encoder: its settings, what it starts from, the loop, its loss and its folder."""
