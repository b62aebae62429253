"""The losses of the paper, and the published networks they are made of."""
