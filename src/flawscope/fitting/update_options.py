"""Options of an update: of the next model, which a model and people's judgements of pictures make."""

from __future__ import annotations

from dataclasses import dataclass

from flawscope.progress import ProgressCallback, Say, discard, ignore_progress


@dataclass(frozen=True)
class UpdateOptions:
    """Options of an update.

    Attributes:
        how: extended, recalibrated or retrained; empty: extended where the method allows it, else
            recalibrated.
        fair: Whether the drawn pictures are called a fair sample, which is tested; they then decide the
            threshold, whatever is lost.
        refuse_unsure: Whether a picture that looks like a defect is an error.
        force: Whether pictures that show nothing are learnt from.
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
