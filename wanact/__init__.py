"""WanAct: fly a drone inside a video model, and train the controller that makes it obey."""

__version__ = "0.1.0"
