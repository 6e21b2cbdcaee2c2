"""The networks: the only place that names Wan classes."""
