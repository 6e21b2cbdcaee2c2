"""Training: stages, data, the loop and the commands behind ``python -m train``."""
