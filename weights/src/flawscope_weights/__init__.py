"""Weights of the networks of flawscope, as files beside this module."""
