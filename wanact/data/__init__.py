"""Data sets: their tables and episodes, what is seen in their clips, what is wrong with them, and what is marked."""
