"""Errors that a person reads: one line that names the thing, the reason and the remedy."""

from __future__ import annotations


class FlawscopeError(Exception):
    """Something went wrong in a way we understand. The command line ends with exit code 1."""


class InputError(FlawscopeError, ValueError):
    """The call, the configuration or a file given to us is wrong. Exit code 2."""


class CheckpointError(InputError):
    """No training can go on from a checkpoint: it is damaged, of another version or of another run."""


class LeftOut(InputError):
    """A picture that was to be left out, by its decoded pixels; the others are done."""
