"""Whether pictures are what a model was made for: another product, camera or light is said in one line."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from flawscope.pictures.appearance import Measures, words
from flawscope.results.prediction import Prediction

LEAST = 4  # pictures from which on anything is said
KEPT = 1000  # pictures that are remembered, the latest: a stream may have no end
FAR = 1.0  # widths of the training pictures' range that a picture lies outside of it
MOST = 0.5  # share of such pictures from which on they are the rule
NEARLY_ALL = 0.9  # share of anomalous pictures
SEVERE = 10.0  # severity of most
ALIKE = 0.5  # of the middle severity, which nearly all have: defects differ more
ANEW = "set the score threshold anew with `flawscope calibrate`, or fit anew"
REMEDY = (
    "is the model of another product, camera or light? Take this product's model, or fit anew with good "
    "pictures like these; where maps of good pictures still look right, `flawscope calibrate` is enough"
)
RENEW = (
    "has the camera or the light changed? The false-alarm rate is promised for pictures like those of the "
    "fit; `flawscope calibrate` with new good pictures renews the promise"
)


@dataclass
class Mismatch:
    """Collects predictions; `line` says what is wrong with them together.

    rate: share of good pictures that is expected to be called anomalous.
    what: the pictures are called that.
    defective: some are known to be, so it is expected that all are anomalous.
    """

    rate: float
    what: str = "pictures"
    defective: bool = False
    count: int = 0
    anomalous: int = 0
    severities: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    shifts: deque[Measures] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, prediction: Prediction) -> None:
        self.count += 1
        self.anomalous += prediction.is_anomalous
        self.severities.append(prediction.severity)
        if prediction.shifts:
            self.shifts.append(prediction.shifts)

    def line(self) -> str:
        """A warning for a person; empty where there is nothing to say."""
        if self.count < LEAST:
            return ""
        far = [one for one in self.shifts if max(map(abs, one)) > FAR]
        if self.shifts and len(far) >= MOST * len(self.shifts):
            remedy = REMEDY if self.anomalous >= MOST * self.count else RENEW
            return (
                f"{len(far)} of {len(self.shifts)} {self.what} look unlike the training pictures as a whole "
                f"({words(far)}), {self.anomalous} of {self.count} are anomalous: {remedy}"
            )
        if self.anomalous < NEARLY_ALL * self.count or self.rate > MOST:
            return ""
        every = f"{self.anomalous} of {self.count} {self.what} are anomalous"
        low, middle, high = np.quantile(np.asarray(self.severities), [0.1, 0.5, 0.9])
        alike = middle >= SEVERE and low >= ALIKE * middle
        if alike:
            every += f", all of about the same severity ({low:.0f} to {high:.0f})"
        if alike and not self.shifts:
            return f"{every}: {REMEDY}"
        if self.defective:
            return ""
        if self.shifts:
            every += ", although light, colour and detail are as in the training pictures"
        asked = (
            "is it the same product, in the same place and position? Look at some"
            if alike
            else "look at some"
        )
        return f"{every}: {asked}. If they are good, {ANEW}"
