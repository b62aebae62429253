"""Drawn faces, and the networks that judge them."""
