"""Runs the same commands on a Ray cluster (extra `cluster`).

No other package imports ray, and this one is imported only when a command is told to use a cluster.
"""
