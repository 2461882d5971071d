"""Drift detection: whether good parts and the camera are still as they were when the model was learnt.

`martingale` has the mathematics, `score_test` tests one product, `monitor` follows all products of a station,
`camera_checks` checks each picture.
"""
