"""Datasets of clips and actions, the latent cache and the simulator."""
