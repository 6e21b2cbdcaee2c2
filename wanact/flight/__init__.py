"""The former home of `python -m wanact replay`; flight records are in `wanact.flying.record`."""
