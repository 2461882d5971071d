"""Runs the same commands on a Ray cluster (extra `cluster`).

No other package imports ray, and this package is imported only by commands that use a cluster.
"""
