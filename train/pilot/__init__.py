"""A pilot that learns to fly, in the simulator and inside the world model: environments, PPO, its checkpoints."""
