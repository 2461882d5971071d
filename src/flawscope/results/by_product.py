"""Counts the predictions of a joint model by product."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flawscope.results.prediction import MismatchDetector, Prediction


@dataclass
class ProductCounts(MismatchDetector):
    """Collects predictions of a joint model, and counts the pictures of each product.

    Attributes:
        pictures_by_product: Number of pictures that were added, by product.
        anomalous_by_product: Number of anomalous pictures among them, by product.
    """

    pictures_by_product: Counter[str] = field(default_factory=Counter)
    anomalous_by_product: Counter[str] = field(default_factory=Counter)

    def add(self, prediction: Prediction) -> None:
        """Add a prediction, and count its picture for its product."""
        super().add(prediction)
        self.pictures_by_product[prediction.product_name] += 1
        self.anomalous_by_product[prediction.product_name] += prediction.decision == "anomalous"

    @property
    def unrecognised(self) -> int:
        """Number of pictures that show none of the products."""
        return self.pictures_by_product[Prediction.NO_PRODUCT_NAME]

    def lines(self) -> str:
        """Return "PRODUCT ANOMALOUS of PICTURES" for all products, as one text without line breaks."""
        texts = []
        for name, count in sorted(self.pictures_by_product.items()):
            if name == Prediction.NO_PRODUCT_NAME:  # pictures without a product are all anomalous
                texts.append(f"{name} {count}")
            else:
                texts.append(f"{name} {self.anomalous_by_product[name]} of {count}")
        return ", ".join(texts)
