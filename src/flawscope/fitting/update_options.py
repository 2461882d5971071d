"""Options of an update, which makes the next model from a model and people's judgements of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from flawscope.progress import ProgressCallback, Say, discard, ignore_progress


@dataclass(frozen=True)
class UpdateOptions:
    """Options of an update.

    Attributes:
        how: Way to make the next model: "extended", "recalibrated" or "retrained". Empty: extended where the
            method allows it, else recalibrated.
        fair: Whether the drawn pictures are called a fair sample. A test checks this, and they then decide
            the threshold, however many defects the next model no longer finds.
        refuse_unsure: Whether a picture that looks like a defect is an error.
        force: Whether to learn from pictures that show nothing, too.
        device: Device, such as "cpu", "cuda" or "auto".
        check: Whether to compare the shares of simulated defects that are found.
        say: Gets lines for a person.
        step: Gets progress.
    """

    how: str = ""
    fair: bool = False
    refuse_unsure: bool = False
    force: bool = False
    device: str = "auto"
    check: bool = True
    say: Say = discard
    step: ProgressCallback = ignore_progress
