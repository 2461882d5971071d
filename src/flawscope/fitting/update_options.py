"""Options of an update: of the next model, which a model and people's judgements of pictures make."""

from __future__ import annotations

from dataclasses import dataclass

from flawscope.progress import ProgressCallback, Say, discard, ignore_progress


@dataclass(frozen=True)
class UpdateOptions:
    """Options of an update.

    how: extended, recalibrated or retrained; empty: as the method can.
    fair: somebody says that the drawn pictures are a fair sample, which is tested; they decide the threshold
        whatever is lost.
    refuse_unsure: a picture that looks like a defect is an error.
    force: pictures that show nothing are learnt from.
    check: compare the shares of simulated defects that are found.
    say: gets lines for a person. step: gets progress.
    """

    how: str = ""
    fair: bool = False
    refuse_unsure: bool = False
    force: bool = False
    device: str = "auto"
    check: bool = True
    say: Say = discard
    step: ProgressCallback = ignore_progress
