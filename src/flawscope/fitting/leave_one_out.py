"""What a fitted model says of a picture that it has learnt from, as if it had not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from flawscope.methods.detector import Detector
from flawscope.methods.task import Fitted


class Unlearnt:
    """The model without the group of the picture that it is asked about; of others, as it is."""

    def __init__(self, model: Detector, fitted: Fitted, learnt: Collection[int], groups: Sequence[int]):
        """
        Args:
            learnt: numbers that the model has learnt from.
            groups: of every number, as the method's `fit` was given them.
        """
        self.model, self.fitted, self.learnt, self.groups = model, fitted, set(learnt), groups
        self.kept = {k: v.to(model.roi.device) for k, v in {**model.state_dict(), **fitted.extra}.items()}

    def __call__(
        self,
        number: int,
        features: Tensor,
        inside: Tensor | None,
        *,
        position: int = 0,
        fast: bool = False,
    ) -> tuple[Tensor, Tensor] | None:
        """Score [1] and map [1, H, W] of an image; None where the method cannot leave out what it has learnt
        from.

        Args:
            features: of one image, as `embed` gives them, without the batch.
            inside: [H, W], the pixels that count.
            position: where in its picture the image lies.
            fast: by what is stored with the model alone, although the fit knows better (`Fitted.left_out`).
        """
        model = self.model.at(position)
        one, counted = features[None], None if inside is None else inside[None]
        if number not in self.learnt:
            return model.score(one, counted)
        group = self.fitted.first_group + self.groups[number]
        if self.fitted.left_out is not None and not fast:
            return self.fitted.left_out(features, group, inside, position)
        return model.left_out(one, group, self.kept, counted)
