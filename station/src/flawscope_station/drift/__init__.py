"""Drift detection: whether parts, light and camera are still as the model knows them.

`martingale` holds the mathematics and `camera_faults` the checks of pictures, both without a station;
`sequential_tests` tests one product; `monitor` and `camera_monitor` follow all products of a station.
"""
