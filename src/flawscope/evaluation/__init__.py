"""Measures predictors on test pictures: metrics with their intervals, reports, benchmarks. Torch-free."""
