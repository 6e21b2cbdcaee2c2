"""Plan a clip."""
