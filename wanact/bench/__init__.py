"""The speed card: what flying costs on this machine, against what it must cost and what stock diffusers takes."""
