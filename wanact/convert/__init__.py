"""The former home of `python -m wanact convert`; what converts is in `wanact.weights`."""
