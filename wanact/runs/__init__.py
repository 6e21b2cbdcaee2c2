"""Runs and their checkpoints: written whole, listed, checked, annotated, published."""
