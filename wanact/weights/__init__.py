"""Weights and where they lie: names in three conventions, layouts of model directories, fine-tuned weights."""
