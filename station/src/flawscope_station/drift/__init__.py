"""Drift detection: whether good parts and the camera are still as the model knows them.

`martingale` holds the mathematics, `score_test` tests one product, `monitor` follows all products of a
station, `camera_checks` looks at each picture.
"""
