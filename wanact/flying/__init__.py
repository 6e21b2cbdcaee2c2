"""From a first frame, a prompt and held keys to frames: clips, live flights, and records of both."""
