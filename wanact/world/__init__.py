"""The simulated world: what it looks like, what is flown there, and what a camera in it truly sees."""
