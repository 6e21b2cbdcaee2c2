"""Data: the clips that a model learns from, and what is wrong with them."""
