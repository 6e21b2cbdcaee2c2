"""The world of the next nano: smooth ground, solids for landmarks, a painted sky, water that reflects, clean edges.

`python -m train simulate --world painted` writes clips of it. What is shipped was trained in the world of
`wanact.world.simulator`, which goes when its model does.
"""
