"""The training loop, which knows no loss: settings, order of samples, optimizers, checkpoints, resuming."""
