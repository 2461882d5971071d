"""Decides whether a person's rules tolerate an anomalous picture.

A rule limits the kind, the size, the place and the number of regions. It is applied after the model; what is
not known is never tolerated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, decimal_point, suggest_name
from flawscope.pictures.masks import read_mask
from flawscope.pictures.pixel_sets import without_edge
from flawscope.pictures.text_files import decode_text, load_yaml
from flawscope.results.findings import ANOMALOUS_PARTS, Reason, tolerance_finding
from flawscope.results.prediction import Prediction, Region
from flawscope.types import Array, Json

ANY = "any"  # kind of a rule that holds for every kind, also where the model names none
# limit of a rule: the region's size, and its unit
LIMITS = {"length": ("length_mm", "mm"), "width": ("width_mm", "mm"), "area": ("area_mm2", "mm²")}
_HOW_WRITTEN = {  # keys of a file
    "version": "a whole number, or a text",
    "picture": "[width, height] of the pictures, in pixels",
    "rules": "a list, each with kind and length, width or area",
}
MAX_REPORTED = 3  # regions that are reported
MAX_NAME_LENGTH = 100  # characters of a version or kind

Mask = NDArray[np.bool_]
Zone = tuple[float, float, float, float] | Mask


class Measured(NamedTuple):
    """Size of a region beside a rule's limit.

    Attributes:
        limit: Name of the limit.
        most: Value of the limit.
        size: Size of the region; None: not known.
        bound: Size that the defect has at most; None: not known.
    """

    limit: str
    most: float
    size: float | None
    bound: float | None

    def exceeded(self, kind: str | None) -> Reason:
        """Say how much larger a region is than the rule allows."""
        return {"code": self.limit, "kind": kind, "size": self.size, "relation": ">", "most": self.most}

    def bounded(self, kind: str | None, relation: str) -> Reason:
        """Say how large a region is, how large it may be, and how large the rule allows."""
        return {
            "code": f"{self.limit}_at_most",
            "kind": kind,
            "size": self.size,
            "bound": self.bound,
            "relation": relation,
            "most": self.most,
        }


@dataclass(frozen=True, eq=False)
class Rule:
    """Rule of what is tolerated.

    Attributes:
        kind: Kind of the region, or `ANY`.
        length, width: Limits in mm, inclusive; None: there is none. At least one limit of the three is set.
        area: Limit in mm², inclusive; None: there is none.
        zone: Box x0, y0, x1, y1 in the picture's pixels, or mask [H, W] of the picture, that holds all of the
            region without touching its edge; None: anywhere.
        number: Most regions of a picture that the rule tolerates; of more it tolerates none. None: any
            number.
    """

    kind: str
    length: float | None = None
    width: float | None = None
    area: float | None = None
    zone: Zone | None = None
    number: int | None = None

    def refusal(self, region: Region, kind: str | None) -> Reason | None:
        """Why the rule does not tolerate a region of this kind; None: it does, but for the number."""
        if self.kind not in (kind, ANY):
            return {"code": "kind_not_known"} if kind is None else {"code": "no_rule", "kind": kind}
        if region.box_at_most is None:
            return {"code": "size_not_known"}
        for measured in self._measure(region):
            if measured.size is None or measured.bound is None:
                return {"code": "size_not_known"}
            if not measured.size <= measured.most:
                return measured.exceeded(kind)
            if not measured.bound <= measured.most:
                return measured.bounded(kind, ">")
        return None if self._holds_at(region.box_at_most) else {"code": "out_of_zone", "kind": kind}

    def kept_limit(self, region: Region, kind: str | None) -> Reason:
        """The first limit that a tolerated region keeps."""
        return next(self._measure(region)).bounded(kind, "≤")

    def _measure(self, region: Region) -> Iterator[Measured]:
        """Yield a region's sizes, each with the rule's limit."""
        for limit, (attribute, _) in LIMITS.items():
            most = getattr(self, limit)
            if most is None:
                continue
            yield Measured(limit, most, getattr(region, attribute), getattr(region, f"{attribute}_at_most"))

    def _holds_at(self, box: tuple[float, float, float, float]) -> bool:
        x0, y0, x1, y1 = box
        if self.zone is None:
            return True
        if isinstance(self.zone, tuple):
            left, top, right, bottom = self.zone
            return left < x0 and top < y0 and x1 < right and y1 < bottom
        return lies_inside(box, self.zone)


class Verdict(NamedTuple):
    """Whether a picture is tolerated, and why."""

    within: bool
    reasons: tuple[Reason, ...]

    @classmethod
    def beyond(cls, code: str, **values: float) -> Verdict:
        """Return the verdict that a picture is not tolerated for a reason, by its code and values."""
        return cls(within=False, reasons=({"code": code, **values},))


@dataclass(frozen=True)
class Tolerances:
    """Rules of a file.

    Attributes:
        version: Version that the file names.
        sha256: Digest of the file and its masks.
        picture: (H, W) of the pictures that it holds for.
        rules: The rules, in the file's order.
        masks: Files of the masks.
    """

    version: str
    sha256: str
    picture: tuple[int, int]
    rules: tuple[Rule, ...]
    masks: tuple[Path, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Tolerances:
        """Read a file. InputError: it cannot be read, or a rule is not clear."""
        try:
            content = path.read_bytes()
            data = load_yaml(decode_text(content))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; name a file of tolerances") from None
        except ValueError as error:
            raise InputError(f"{path} is not YAML: {error}; mend it") from None
        return cls._parse(data, content, path)

    @classmethod
    def _parse(cls, document: object, content: bytes, path: Path) -> Tolerances:
        data = _check_keys(document, [*_HOW_WRITTEN], str(path))
        for name, form in _HOW_WRITTEN.items():
            if data.get(name) is None:
                raise InputError(f"{path} has no {name}: write {form}")
        version = _parse_version(data["version"], path)
        size = _parse_size(data["picture"], path)
        documents = data["rules"]
        if not isinstance(documents, list) or not documents:
            raise InputError(f"{path} has no rules: write {_HOW_WRITTEN['rules']}")
        rules = []
        for number, rule_facts in enumerate(documents, 1):
            rules.append(_parse_rule(rule_facts, f"{path} rule {number}", path.parent, size))
        digest = hashlib.sha256(content)
        for rule in rules:
            digest.update(rule.zone.tobytes() if isinstance(rule.zone, np.ndarray) else b"")
        masks = (
            path.parent / rule_facts["zone"]
            for rule_facts in documents
            if isinstance(rule_facts.get("zone"), str)
        )
        return cls(version, digest.hexdigest(), size, tuple(rules), tuple(masks))

    def to_dict(self) -> dict[str, str]:
        """Facts for the results of a run."""
        return {"version": self.version, "sha256": self.sha256}

    def judge(self, regions: Sequence[Region], picture_size: tuple[int, int]) -> Verdict:
        """Judge the regions of an anomalous picture of (H, W) pixels.

        Each region needs a rule for every kind that it may be of.
        """
        refused = self._refuse(regions, picture_size)
        if refused is not None:
            return refused
        tolerating, crowded = self._match(regions)
        reasons = []
        for number, region in enumerate(regions):
            for kind in _kinds(region):
                if (number, kind) not in tolerating:
                    reason = self._refusal(region, kind)
                    return Verdict(within=False, reasons=(crowded if reason is None else reason,))
            first = _kinds(region)[0]
            reasons.append(tolerating[number, first].kept_limit(region, first))
        return Verdict(within=True, reasons=tuple(reasons))

    def _refuse(self, regions: Sequence[Region], picture_size: tuple[int, int]) -> Verdict | None:
        """Why no rule can tolerate regions, whatever it says; None: one may."""
        if picture_size != self.picture:
            (height, width), (h, w) = picture_size, self.picture
            return Verdict.beyond("picture_size", width=width, height=height, rules_width=w, rules_height=h)
        if not regions:
            return Verdict.beyond("nothing_marked")
        for region in regions:
            if not _kinds(region):
                return Verdict.beyond("kind_not_known")
            reach = region.box if region.box_at_most is None else region.box_at_most
            if not lies_inside(reach, np.broadcast_to(True, picture_size)):
                return Verdict.beyond("at_border")
        return None

    def _match(self, regions: Sequence[Region]) -> tuple[dict[tuple[int, str | None], Rule], Reason]:
        """Find the first rule that tolerates each region.

        Returns:
            The rules by the region's number and kind; and the reason why a rule that would tolerate more
            regions than it may tolerates none, empty where there is none.
        """
        pairs = [(number, kind) for number, region in enumerate(regions) for kind in _kinds(region)]
        tolerating: dict[tuple[int, str | None], Rule] = {}
        crowded: Reason = {}
        for rule in self.rules:
            matching = [
                (number, kind) for number, kind in pairs if rule.refusal(regions[number], kind) is None
            ]
            count = len({number for number, _ in matching})
            if rule.number is not None and count > rule.number:
                crowded = {"code": "too_many", "count": count, "kind": rule.kind, "most": rule.number}
                continue
            for pair in matching:
                tolerating.setdefault(pair, rule)
        return tolerating, crowded

    def _refusal(self, region: Region, kind: str | None) -> Reason | None:
        """Why the rules for a kind do not tolerate a region; None: all do, but for the number."""
        for rule in [rule for rule in self.rules if rule.kind in (kind, ANY)] or self.rules:
            reason = rule.refusal(region, kind)
            if reason is not None:
                return reason
        return None


def apply_tolerances(found: Prediction, numbers: Array, tolerances: Tolerances) -> Prediction:
    """Return an anomalous prediction with the verdict of the rules; a good one stays as it is.

    Of several parts each anomalous one is judged by itself.

    Args:
        found: The prediction.
        numbers: [H, W] of the map: number of the part that is inspected there, 1 or True where there is only
            one; 0: nothing is inspected. A region at an edge between them is not tolerated.
        tolerances: The rules.
    """
    if not found.is_anomalous:
        return found
    within, reasons = _judge_parts(found, numbers, tolerances)
    more: list[Reason] = (
        [{"code": "more", "count": len(reasons) - MAX_REPORTED}] if reasons[MAX_REPORTED:] else []
    )
    name = f"tolerances {tolerances.version}, {tolerances.sha256[:8]}"
    return found.noticing(tolerance_finding(within, (*reasons[:MAX_REPORTED], *more), name))


def _judge_parts(found: Prediction, numbers: Array, tolerances: Tolerances) -> Verdict:
    if any(finding.code != ANOMALOUS_PARTS for finding in found.findings):
        return Verdict.beyond("something_else")
    parts = {1: True}  # whether each is anomalous
    if found.found_parts is not None:
        parts = {part.part_index: part.is_anomalous for part in found.found_parts.parts}
    regions = _regions_by_part(found, numbers, [*parts])
    if regions is None:
        return Verdict.beyond("at_edge")
    reasons: list[Reason] = []
    for number, is_anomalous in parts.items():
        if not is_anomalous:
            continue
        verdict = tolerances.judge(regions[number], found.geometry.picture_size)
        if not verdict.within:
            return verdict
        reasons += verdict.reasons
    return Verdict(within=True, reasons=tuple(reasons)) if reasons else Verdict.beyond("nothing_marked")


def _regions_by_part(
    found: Prediction, numbers: Array, parts: Sequence[int]
) -> dict[int, list[Region]] | None:
    """Regions by the number of the part in which they lie; None where one does not lie inside of any."""
    regions: dict[int, list[Region]] = {number: [] for number in parts}
    inside = {number: without_edge(numbers == number) for number in parts}
    for place, region in zip(found.doubted_pixels, found.regions, strict=True):
        number = int(numbers[place[0][0], place[1][0]])
        if number not in regions or not inside[number][place].all():
            return None
        regions[number].append(region)
    return regions


def lies_inside(box: tuple[float, float, float, float], mask: Mask) -> bool:
    """Whether a box x0, y0, x1, y1 and a pixel around it lie in a mask [H, W]."""
    if not all(map(math.isfinite, box)):
        return False
    left, top = (math.floor(at) - 1 for at in box[:2])
    right, bottom = (math.ceil(at) + 1 for at in box[2:])
    within = left >= 0 and top >= 0 and bottom <= mask.shape[0] and right <= mask.shape[1]
    return within and bool(mask[top:bottom, left:right].all())


def _kinds(region: Region) -> tuple[str | None, ...]:
    """Kinds that a region may be of; empty: something new. None: the model names none."""
    return (None,) if region.kinds is None else region.kinds


def _parse_version(version: object, path: Path) -> str:
    if not isinstance(version, str) or not _is_name(version):
        raise InputError(f"{path}: version is {version!r:.60}: write {_HOW_WRITTEN['version']}")
    return version.strip()


def _parse_size(picture: object, path: Path) -> tuple[int, int]:
    """Size (H, W) of the pictures, which a file writes as [width, height]."""
    sides = [_number(side, int) for side in picture] if isinstance(picture, list) else []
    if len(sides) != 2 or not all(side > 0 for side in sides):
        raise InputError(f"{path}: picture is {picture!r:.60}: write {_HOW_WRITTEN['picture']}")
    return int(sides[1]), int(sides[0])


def _parse_rule(document: object, place: str, folder: Path, size: tuple[int, int]) -> Rule:
    data = _check_keys(document, [field.name for field in fields(Rule)], place)
    kind = data.get("kind")
    if not isinstance(kind, str) or not _is_name(kind):
        raise InputError(f"{place}: kind is {kind!r:.60}: name the kind, or write any")
    limits = _parse_limits(data, place)
    number = _parse_count(data["number"], place) if "number" in data else None
    zone = _parse_zone(data["zone"], place, folder, size) if "zone" in data else None
    return Rule(kind.strip(), **limits, zone=zone, number=number)


def _parse_limits(data: Json, place: str) -> dict[str, float]:
    """Limits of a rule by their names: one at least."""
    limits = {name: _number(data[name], float) for name in LIMITS if name in data}
    for name, value in limits.items():
        if not 0 < value < math.inf:
            raise InputError(
                f"{place}: {name} is {data[name]!r:.60}: write a number of {LIMITS[name][1]} above 0, "
                "without its unit, such as 0.5"
            )
    if not limits:
        raise InputError(f"{place} has no limit: write length, width or area")
    return limits


def _parse_count(text: object, place: str) -> int:
    number = int(_number(text, int))
    if number < 1:
        raise InputError(f"{place}: number is {text!r:.60}: write a whole number of regions, 1 or more")
    return number


def _parse_zone(zone: object, place: str, folder: Path, size: tuple[int, int]) -> Zone:
    if isinstance(zone, str):
        return _read_zone(zone, place, folder, size)
    sides = [_number(side, float) for side in zone] if isinstance(zone, list) else []
    if len(sides) == 4 and not any(map(math.isnan, sides)):
        x0, y0, x1, y1 = sides
        if min(x0, y0, size[1] - x1, size[0] - y1) < -1:
            raise InputError(
                f"{place}: zone is {zone!r:.60} and leaves the picture, which has {size[1]} x {size[0]} "
                "pixels: correct the zone, or picture: [width, height]"
            )
        if x1 - x0 > 1 and y1 - y0 > 1:
            return x0, y0, x1, y1
    raise InputError(
        f"{place}: zone is {zone!r:.60}: write [x0, y0, x1, y1] in pixels of the picture, or a mask's file"
    )


def _read_zone(name: str, place: str, folder: Path, size: tuple[int, int]) -> Mask:
    """Read the mask of a zone. InputError where it is not as large as the pictures, or empty."""
    marked = read_mask(folder / name)
    if marked.shape != size:
        raise InputError(f"{place}: {name} is not as large as the pictures, {size[1]} x {size[0]} pixels")
    if not marked.any():
        raise InputError(f"{place}: nothing in {name} is white: draw white where the rule holds")
    return marked


def _number(text: object, kind: type[float]) -> float:
    """Return the number that a text gives, with a point or a decimal comma.

    It is NaN for a text without a number, or 0 where `kind` is int and it gives no whole number.
    """
    none = 0 if kind is int else math.nan
    if not isinstance(text, str | int | float):
        return none
    try:
        return kind(decimal_point(text) if isinstance(text, str) else text)
    except ValueError:
        return none


def _is_name(text: str) -> bool:
    return text.isprintable() and 0 < len(text.strip()) <= MAX_NAME_LENGTH


def _check_keys(data: object, known: Sequence[str], place: str) -> Json:
    """Return the keys and values of a document. InputError: it has none, or others than these."""
    if not isinstance(data, dict):
        raise InputError(f"{place} is no list of `key: value`: write {', '.join(known)}")
    for key in data:
        if key not in known:
            raise InputError(f"{place}: unknown key {key!r}; {suggest_name(str(key), known)}")
    return data
