"""Drift detection: whether parts, light and camera are still as the model knows them.

`martingale` holds the mathematics and `camera` the checks of pictures, both without a station; `run` tests
one product; `drifts` and `camera_monitor` follow all products of a station.
"""
