"""An ensemble's inference path: every member sees the picture at its size, and their maps are combined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from flawscope.methods.detector import Detector, stored_region
from flawscope.methods.ensemble import METHOD, Config
from flawscope.methods.features.embedding import cell_windows, patches_in_region, reducing_matrix
from flawscope.methods.method import WeightsOrigin


class Member(nn.Module):
    """A detector at its own size within an ensemble.

    Attributes:
        shape, width: of a picture's features, and how many numbers they are.
    """

    down_rows: Tensor
    down_columns: Tensor
    up_rows: Tensor
    up_columns: Tensor
    rows_windows: Tensor
    columns_windows: Tensor

    def __init__(self, detector: Detector, size: tuple[int, int]):
        """
        Args:
            size: (H, W) of the ensemble's images and maps.
        """
        super().__init__()
        self.detector, self.same_size = detector, detector.size == size
        for name, own, whole in zip(("rows", "columns"), detector.size, size, strict=True):
            self.register_buffer(f"down_{name}", reducing_matrix(own, whole), persistent=False)
            self.register_buffer(f"up_{name}", reducing_matrix(whole, own), persistent=False)
            self.register_buffer(f"{name}_windows", cell_windows(whole, own), persistent=False)
        with torch.inference_mode():
            features = detector.embed(torch.zeros(1, 3, *detector.size))
        self.shape = tuple(features.shape[1:])
        self.width = math.prod(self.shape)

    def resize_mask(self, inside: Tensor) -> Tensor:
        """Pixels that count `[B, H, W]` bool at the member's size: those with a pixel that does."""
        rows, columns = self.rows_windows, self.columns_windows
        return inside if self.same_size else rows @ inside.to(rows.dtype) @ columns.T > 0

    def images(self, images: Tensor, inside: Tensor | None) -> Tensor:
        """Images without marks `[B, 3, H, W]` at the member's size, where `inside` is given marked."""
        if not self.same_size:
            planes = self.down_rows @ images.flatten(0, 1) @ self.down_columns.T
            images = planes.view(-1, images.shape[1], *self.detector.size)
        mask = None if inside is None else self.resize_mask(inside)[:, None]
        return images if mask is None else torch.where(mask, images, -1 - images)

    def own_inputs(self, features: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Flat features, and the pixels that count, as the detector takes them."""
        return features.view(-1, *self.shape), None if inside is None else self.resize_mask(inside)

    def score(self, features: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores `[B]` and maps `[B, H, W]`, at the ensemble's size, of flat features."""
        scores, maps = self.detector.score(*self.own_inputs(features, inside))
        return scores, maps if self.same_size else self.up_rows @ maps @ self.up_columns.T


BASE_WEIGHT = 1.0  # of a pixel in which the outlining members see nothing; they add 1 at most


class Model(Detector):
    """Several detectors. What each one says is measured by what it says of good pictures that were held out
    (`normal`), and the mean counts: of all maps, and of the scores of those that decide.

    Far beyond good pictures the measure is logarithmic, so that a member with few, steep values does not
    outvote the others. Maps of members that outline are no votes, but weights: probabilities, which double
    the others' map at most, and take nothing away where a defect is unknown to them.
    """

    METHOD = METHOD
    config: Config
    members: Sequence[Member]
    normal: Tensor  # [members, 4]: mean and spread of good pictures' map values, then of their scores

    def __init__(self, config: Config, detectors: Sequence[Detector], roi: Tensor | None = None):
        super().__init__(config, roi)
        self.members = nn.ModuleList(Member(one, self.size) for one in detectors)  # type: ignore[assignment]
        self.register_buffer("normal", torch.tensor([[0.0, 1.0, 0.0, 1.0]]).repeat(len(self.members), 1))
        self.eval()

    @property
    def score_is_map_maximum(self) -> bool:
        return False

    def images(self, images: Tensor, member: Member) -> Tensor:
        """Images `[B, 3, H, W]`, padding marked, as a member takes them."""
        return member.images(self.filled(images), self.pixel_mask(images))

    def pixel_mask(self, images: Tensor) -> Tensor | None:
        """The pixels that are no padding, `[B, H, W]` bool; None where no picture is padded."""
        return images[:, 0] >= 0 if self.config.pads else None

    def embed(self, images: Tensor) -> Tensor:
        """Turn images `[B, 3, H, W]` into the members' features, flat and one after the other `[B, D]`."""
        return torch.cat([m.detector.embed(self.images(images, m)).flatten(1) for m in self.members], dim=1)

    def score_members(self, features: Tensor, inside: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Every member's scores `[B]` and maps `[B, H, W]`, in its own unit."""
        return [m.score(part, inside) for m, part in self.split_features(features)]

    def split_features(self, features: Tensor) -> Iterable[tuple[Member, Tensor]]:
        """The members, with their flat features."""
        return zip(self.members, features.split([m.width for m in self.members], dim=1), strict=True)

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        each, outlining = self.score_members(features, inside), self.config.outlining_members
        scores = [
            signed_log((each[k][0] - self.normal[k, 2]) / self.normal[k, 3])
            for k in self.config.deciding_members
        ]
        maps = [
            signed_log((drawn - n[0]) / n[1])
            for k, ((_, drawn), n) in enumerate(zip(each, self.normal, strict=True))
            if k not in outlining
        ]
        if outlining:
            weight = torch.stack([each[k][1] for k in outlining]).mean(0).clamp(0, 1) + BASE_WEIGHT
            combined = torch.stack([one.exp() for one in maps]).mean(0) * weight
        else:
            combined = torch.stack(maps).mean(0)
        return torch.stack(scores).mean(0), self.bounded(combined, inside)

    def ties(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Whether the score of each picture, `[B]` bool, rests on a tie in any member."""
        tied = [m.detector.ties(*m.own_inputs(part, inside)) for m, part in self.split_features(features)]
        return torch.stack(tied).any(0)

    def for_export(self) -> None:
        for member in self.members:
            member.detector.for_export()

    # ---- made, and read from a model file

    @classmethod
    def create(cls, config: Config, roi: Tensor | None = None) -> tuple[Self, WeightsOrigin]:
        """An ensemble that is not fitted, and the name, origin and licence of its backbones' weights."""
        detectors, origins = [], list[WeightsOrigin]()
        for method, own in config.each():
            detector, origin = method.create(
                own, None if roi is None else resize_region(roi, own.network_size)
            )
            detectors.append(detector)
            origins += [] if origin in origins else [origin]
        whole = {key: ", ".join(one[key] for one in origins if key in one) for one in origins for key in one}
        return cls(config, detectors, roi), whole

    @classmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        typed: Config = METHOD.parse_stored({"outlines": "", **config})  # before, all maps were averaged
        roi, detectors, known = stored_region(typed, tensors), [], dict(tensors)
        for k, (method, own) in enumerate(typed.each()):
            start = f"members.{k}.detector."
            known[f"{start}roi"] = resize_region(roi, own.network_size)
            found = {key.removeprefix(start): v for key, v in known.items() if key.startswith(start)}
            detectors.append(method.rebuild(vars(own), found))
        model = cls(typed, detectors, roi)
        model.fill(known)
        return model.eval()


def signed_log(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): small values stay, large ones are compressed."""
    return values.sign() * values.abs().log1p()


def resize_region(roi: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a region of interest `[H, W]` bool: pixels that hold one of its pixels belong to it."""
    return patches_in_region(roi, size).view(size) > 0
