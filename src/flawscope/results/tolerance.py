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
# Limits of a rule: the field of `Region` that each bounds, and its unit
LIMITS = {"length": ("length_mm", "mm"), "width": ("width_mm", "mm"), "area": ("area_mm2", "mm²")}
# Keys of a file, with the form of their values
_FORMS = {
    "version": "a whole number, or a text",
    "picture": "[width, height] of the pictures, in pixels",
    "rules": "a list, each with kind and length, width or area",
}
MAX_REPORTED = 3  # reasons that a finding lists
MAX_NAME_LENGTH = 100  # characters of a version or kind

Mask = NDArray[np.bool_]
Zone = tuple[float, float, float, float] | Mask


class Measured(NamedTuple):
    """Size of a region beside a rule's limit.

    Attributes:
        limit: Name of the limit, a key of `LIMITS`.
        most: Value of the limit.
        size: Size of the marked region; None: it is not known.
        bound: Largest size that the defect may have, since the region may be only a part of it; None: it is
            not known.
    """

    limit: str
    most: float
    size: float | None
    bound: float | None

    def exceeded(self, kind: str | None) -> Reason:
        """Return the reason "a region of this kind is larger than the rule allows"."""
        return {"code": self.limit, "kind": kind, "size": self.size, "relation": ">", "most": self.most}

    def bounded(self, kind: str | None, relation: str) -> Reason:
        """Return the reason that compares the largest possible size of the defect with the limit.

        Args:
            kind: Kind of the region.
            relation: "≤" or ">": how the largest possible size compares with the limit.
        """
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
    """Rule of what is tolerated. At least one of length, width and area is limited.

    Attributes:
        kind: Kind of the tolerated regions, or `ANY`.
        length, width: Largest length and width in mm, inclusive; None: there is no limit.
        area: Largest area in mm², inclusive; None: there is no limit.
        zone: Place where regions are tolerated: a box x0, y0, x1, y1 in the picture's pixels, or a mask
            [H, W] of the picture. A region must lie in the zone and not touch its edge. None: anywhere.
        number: Largest number of regions in a picture; if more regions match the rule, it tolerates none of
            them. None: any number.
    """

    kind: str
    length: float | None = None
    width: float | None = None
    area: float | None = None
    zone: Zone | None = None
    number: int | None = None

    def refusal(self, region: Region, kind: str | None) -> Reason | None:
        """Return why the rule does not tolerate a region of this kind; None: it tolerates the region.

        The region is judged alone: `number` is not considered.
        """
        if self.kind not in (kind, ANY):
            return {"code": "kind_not_known"} if kind is None else {"code": "no_rule", "kind": kind}
        if region.box_at_most is None:
            return {"code": "size_not_known"}
        for measured in self._measure(region):
            if measured.size is None or measured.bound is None:
                return {"code": "size_not_known"}
            if not measured.size <= measured.most:  # `not <=`, since NaN must not be tolerated
                return measured.exceeded(kind)
            if not measured.bound <= measured.most:
                return measured.bounded(kind, ">")
        return None if self._contains(region.box_at_most) else {"code": "out_of_zone", "kind": kind}

    def kept_limit(self, region: Region, kind: str | None) -> Reason:
        """Return the reason why a region is tolerated: the rule's first limit, which the region keeps."""
        first_measured = next(self._measure(region))
        return first_measured.bounded(kind, "≤")

    def _measure(self, region: Region) -> Iterator[Measured]:
        """Yield each limit that the rule has, with the region's size that it applies to."""
        for limit, (attribute, _) in LIMITS.items():
            most = getattr(self, limit)
            if most is None:
                continue
            size = getattr(region, attribute)
            bound = getattr(region, f"{attribute}_at_most")
            yield Measured(limit, most, size, bound)

    def _contains(self, box: tuple[float, float, float, float]) -> bool:
        """Return whether a box (x0, y0, x1, y1) lies in the zone and does not touch the zone's edge."""
        x0, y0, x1, y1 = box
        if self.zone is None:
            return True
        if isinstance(self.zone, tuple):
            left, top, right, bottom = self.zone
            return left < x0 and top < y0 and x1 < right and y1 < bottom
        return lies_inside(box, self.zone)


class Verdict(NamedTuple):
    """Verdict of the rules on a picture.

    Attributes:
        within: Whether the picture is tolerated.
        reasons: The reasons for the verdict.
    """

    within: bool
    reasons: tuple[Reason, ...]

    @classmethod
    def beyond(cls, code: str, **values: float) -> Verdict:
        """Return the verdict "not tolerated", for the reason of this code and these values."""
        return cls(within=False, reasons=({"code": code, **values},))


@dataclass(frozen=True)
class Tolerances:
    """Rules of a file.

    Attributes:
        version: Version that the file names.
        sha256: Digest of the file and its masks.
        picture: (H, W) of the pictures that the rules hold for.
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
        """Read a file of tolerances, and the masks that it names.

        Raises:
            InputError: A file cannot be read, or a rule is wrong.
        """
        try:
            content = path.read_bytes()
            document = load_yaml(decode_text(content))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; name a file of tolerances") from None
        except ValueError as error:
            raise InputError(f"{path} is not YAML: {error}; mend it") from None
        return cls._parse(document, content, path)

    @classmethod
    def _parse(cls, document: object, content: bytes, path: Path) -> Tolerances:
        """Return the rules of a file.

        Args:
            document: The file's parsed YAML.
            content: The file's bytes.
            path: The file.
        """
        data = _check_keys(document, [*_FORMS], str(path))
        for name, form in _FORMS.items():
            if data.get(name) is None:
                raise InputError(f"{path} has no {name}: write {form}")
        version = _parse_version(data["version"], path)
        size = _parse_size(data["picture"], path)
        rule_documents = data["rules"]
        if not isinstance(rule_documents, list) or not rule_documents:
            raise InputError(f"{path} has no rules: write {_FORMS['rules']}")
        rules = []
        masks = []
        digest = hashlib.sha256(content)
        for number, rule_document in enumerate(rule_documents, 1):
            rule = _parse_rule(rule_document, f"{path} rule {number}", path.parent, size)
            rules.append(rule)
            if isinstance(rule.zone, np.ndarray):
                digest.update(rule.zone.tobytes())
                masks.append(path.parent / rule_document["zone"])
        return cls(version, digest.hexdigest(), size, tuple(rules), tuple(masks))

    def to_dict(self) -> dict[str, str]:
        """Return the version and the digest, for the results of a run."""
        return {"version": self.version, "sha256": self.sha256}

    def judge(self, regions: Sequence[Region], picture_size: tuple[int, int]) -> Verdict:
        """Judge the regions of an anomalous picture.

        A picture is tolerated if, for each of its regions and every kind that the region may be of, a rule
        tolerates it.

        Args:
            regions: The regions.
            picture_size: (H, W) of the picture.
        """
        general_verdict = self._refuse_all(regions, picture_size)
        if general_verdict is not None:
            return general_verdict
        rule_by_pair, crowding_reason = self._match_rules(regions)
        reasons = []
        for index, region in enumerate(regions):
            kinds = _kinds(region)
            for kind in kinds:
                if (index, kind) not in rule_by_pair:
                    refusal = self._refusal(region, kind)
                    reason = crowding_reason if refusal is None else refusal
                    return Verdict(within=False, reasons=(reason,))
            likeliest_kind = kinds[0]
            rule = rule_by_pair[index, likeliest_kind]
            reasons.append(rule.kept_limit(region, likeliest_kind))
        return Verdict(within=True, reasons=tuple(reasons))

    def _refuse_all(self, regions: Sequence[Region], picture_size: tuple[int, int]) -> Verdict | None:
        """Return the verdict if no rule could tolerate the regions; None: it depends on the rules."""
        if picture_size != self.picture:
            height, width = picture_size
            rules_height, rules_width = self.picture
            return Verdict.beyond(
                "picture_size",
                width=width,
                height=height,
                rules_width=rules_width,
                rules_height=rules_height,
            )
        if not regions:
            return Verdict.beyond("nothing_marked")
        picture_mask = np.broadcast_to(True, picture_size)  # all True: the mask is the whole picture
        for region in regions:
            if not _kinds(region):
                return Verdict.beyond("kind_not_known")
            defect_box = region.box if region.box_at_most is None else region.box_at_most
            if not lies_inside(defect_box, picture_mask):
                return Verdict.beyond("at_border")
        return None

    def _match_rules(self, regions: Sequence[Region]) -> tuple[dict[tuple[int, str | None], Rule], Reason]:
        """Find the first rule that tolerates each region, for each kind that the region may be of.

        If more regions match a rule than its `number`, the rule is left out: it tolerates none of them.

        Returns:
            The rules, by the region's index in `regions` and its kind; and the reason "too many regions" of
            the last rule that was left out, empty if none was.
        """
        pairs = [(index, kind) for index, region in enumerate(regions) for kind in _kinds(region)]
        rule_by_pair: dict[tuple[int, str | None], Rule] = {}
        crowding_reason: Reason = {}
        for rule in self.rules:
            matching_pairs = [
                (index, kind) for index, kind in pairs if rule.refusal(regions[index], kind) is None
            ]
            count = len({index for index, _ in matching_pairs})  # a region may match by several kinds
            if rule.number is not None and count > rule.number:
                crowding_reason = {
                    "code": "too_many",
                    "count": count,
                    "kind": rule.kind,
                    "most": rule.number,
                }
                continue
            for pair in matching_pairs:
                rule_by_pair.setdefault(pair, rule)
        return rule_by_pair, crowding_reason

    def _refusal(self, region: Region, kind: str | None) -> Reason | None:
        """Return why no rule tolerates a region of this kind.

        The result is None if each rule would tolerate the region if it were the only one: then there are too
        many regions. If there is no rule for the kind, the first of all rules gives the reason.
        """
        rules_of_kind = [rule for rule in self.rules if rule.kind in (kind, ANY)]
        for rule in rules_of_kind or self.rules:
            reason = rule.refusal(region, kind)
            if reason is not None:
                return reason
        return None


def apply_tolerances(prediction: Prediction, numbers: Array, tolerances: Tolerances) -> Prediction:
    """Return an anomalous prediction with the verdict of the rules; a good prediction stays as it is.

    If a picture shows several parts, each anomalous part is judged by itself.

    Args:
        prediction: The prediction.
        numbers: [H, W], for each pixel of the map the number of the part that is inspected there; 0: nothing
            is inspected. For a single part it may be a bool mask. A region that reaches a pixel of another
            number is not tolerated.
        tolerances: The rules.
    """
    if not prediction.is_anomalous:
        return prediction
    is_within, all_reasons = _judge_parts(prediction, numbers, tolerances)
    reasons = [*all_reasons[:MAX_REPORTED]]
    unlisted_count = len(all_reasons) - len(reasons)
    if unlisted_count:
        reasons.append({"code": "more", "count": unlisted_count})
    rules_name = f"tolerances {tolerances.version}, {tolerances.sha256[:8]}"
    return prediction.noticing(tolerance_finding(is_within, reasons, rules_name))


def _judge_parts(prediction: Prediction, numbers: Array, tolerances: Tolerances) -> Verdict:
    """Judge the regions of each anomalous part; the arguments are those of `apply_tolerances`."""
    if any(finding.code != ANOMALOUS_PARTS for finding in prediction.findings):
        return Verdict.beyond("something_else")
    if prediction.found_parts is None:
        all_numbers = [1]
        anomalous_numbers = [1]
    else:
        parts = prediction.found_parts.parts
        all_numbers = [part.part_index for part in parts]
        anomalous_numbers = [part.part_index for part in parts if part.is_anomalous]
    # number of a part -> its regions
    regions_by_part = _regions_by_part(prediction, numbers, all_numbers)
    if regions_by_part is None:
        return Verdict.beyond("at_edge")
    reasons: list[Reason] = []
    for number in anomalous_numbers:
        verdict = tolerances.judge(regions_by_part[number], prediction.geometry.picture_size)
        if not verdict.within:
            return verdict
        reasons += verdict.reasons
    if not reasons:
        return Verdict.beyond("nothing_marked")
    return Verdict(within=True, reasons=tuple(reasons))


def _regions_by_part(
    prediction: Prediction, numbers: Array, parts: Sequence[int]
) -> dict[int, list[Region]] | None:
    """Return the regions by the number of their part; None if a region does not lie inside a single part.

    Args:
        prediction: The prediction.
        numbers: [H, W], number of the part at each pixel, as in `apply_tolerances`.
        parts: Numbers of all parts.
    """
    regions_by_part: dict[int, list[Region]] = {number: [] for number in parts}
    inside_by_part = {number: without_edge(numbers == number) for number in parts}
    for doubted_pixels, region in zip(prediction.doubted_pixels, prediction.regions, strict=True):
        rows, columns = doubted_pixels
        number = int(numbers[rows[0], columns[0]])  # any pixel will do: all must have the same number
        if number not in regions_by_part or not inside_by_part[number][doubted_pixels].all():
            return None
        regions_by_part[number].append(region)
    return regions_by_part


def lies_inside(box: tuple[float, float, float, float], mask: Mask) -> bool:
    """Return whether a box x0, y0, x1, y1 and a pixel around it lie in a mask [H, W]."""
    if not all(map(math.isfinite, box)):
        return False
    x0, y0, x1, y1 = box
    left = math.floor(x0) - 1
    top = math.floor(y0) - 1
    right = math.ceil(x1) + 1
    bottom = math.ceil(y1) + 1
    height, width = mask.shape
    is_in_picture = left >= 0 and top >= 0 and bottom <= height and right <= width
    return is_in_picture and bool(mask[top:bottom, left:right].all())


def _kinds(region: Region) -> tuple[str | None, ...]:
    """Return the kinds that a region may be of, likeliest first; empty: it is something new.

    A model without kinds has the single kind None.
    """
    return (None,) if region.kinds is None else region.kinds


def _parse_version(version: object, path: Path) -> str:
    if not isinstance(version, str) or not _is_name(version):
        raise InputError(f"{path}: version is {version!r:.60}: write {_FORMS['version']}")
    return version.strip()


def _parse_size(picture: object, path: Path) -> tuple[int, int]:
    """Return the size (H, W) of the pictures, which a file writes as [width, height]."""
    sides = [_parse_whole_number(side) for side in picture] if isinstance(picture, list) else []
    if len(sides) != 2 or not all(side > 0 for side in sides):
        raise InputError(f"{path}: picture is {picture!r:.60}: write {_FORMS['picture']}")
    width, height = sides
    return height, width


def _parse_rule(document: object, place: str, folder: Path, size: tuple[int, int]) -> Rule:
    """Return a rule from its entry in a file.

    Args:
        document: Parsed YAML of the entry.
        place: Where the entry is in the file, for errors.
        folder: Folder of the file; names of masks are relative to it.
        size: (H, W) of the pictures.
    """
    data = _check_keys(document, [field.name for field in fields(Rule)], place)
    kind = data.get("kind")
    if not isinstance(kind, str) or not _is_name(kind):
        raise InputError(f"{place}: kind is {kind!r:.60}: name the kind, or write any")
    limits = _parse_limits(data, place)
    number = _parse_count(data["number"], place) if "number" in data else None
    zone = _parse_zone(data["zone"], place, folder, size) if "zone" in data else None
    return Rule(kind.strip(), **limits, zone=zone, number=number)


def _parse_limits(data: Json, place: str) -> dict[str, float]:
    """Return the limits of a rule by their names; raise InputError if one is wrong or there are none."""
    limits = {name: _parse_number(data[name]) for name in LIMITS if name in data}
    for name, value in limits.items():
        _, unit = LIMITS[name]
        if not 0 < value < math.inf:
            raise InputError(
                f"{place}: {name} is {data[name]!r:.60}: write a number of {unit} above 0, without its unit, "
                "such as 0.5"
            )
    if not limits:
        raise InputError(f"{place} has no limit: write length, width or area")
    return limits


def _parse_count(text: object, place: str) -> int:
    number = _parse_whole_number(text)
    if number < 1:
        raise InputError(f"{place}: number is {text!r:.60}: write a whole number of regions, 1 or more")
    return number


def _parse_zone(zone: object, place: str, folder: Path, size: tuple[int, int]) -> Zone:
    """Return the zone of a rule: a box, or the mask of a file; raise InputError for another value."""
    if isinstance(zone, str):
        return _read_zone(zone, place, folder, size)
    sides = [_parse_number(side) for side in zone] if isinstance(zone, list) else []
    if len(sides) == 4 and not any(map(math.isnan, sides)):
        x0, y0, x1, y1 = sides
        height, width = size
        smallest_margin = min(x0, y0, width - x1, height - y1)
        # a zone may reach a pixel beyond the picture, since regions must not touch the zone's edge
        if smallest_margin < -1:
            raise InputError(
                f"{place}: zone is {zone!r:.60} and leaves the picture, which has {width} x {height} "
                "pixels: correct the zone, or picture: [width, height]"
            )
        if x1 - x0 > 1 and y1 - y0 > 1:
            return x0, y0, x1, y1
    raise InputError(
        f"{place}: zone is {zone!r:.60}: write [x0, y0, x1, y1] in pixels of the picture, or a mask's file"
    )


def _read_zone(name: str, place: str, folder: Path, size: tuple[int, int]) -> Mask:
    """Read the mask of a zone.

    Raises:
        InputError: The mask cannot be read, is not as large as the pictures, or is empty.
    """
    mask = read_mask(folder / name)
    if mask.shape != size:
        raise InputError(f"{place}: {name} is not as large as the pictures, {size[1]} x {size[0]} pixels")
    if not mask.any():
        raise InputError(f"{place}: nothing in {name} is white: draw white where the rule holds")
    return mask


def _parse_number(value: object) -> float:
    """Return a YAML value as a number; NaN if it is none. A text may have a decimal comma."""
    if not isinstance(value, str | int | float):
        return math.nan
    try:
        return float(decimal_point(value) if isinstance(value, str) else value)
    except ValueError:
        return math.nan


def _parse_whole_number(value: object) -> int:
    """Return a YAML value, number or text, as a whole number; 0 if it is none. Decimals are cut off."""
    if not isinstance(value, str | int | float):
        return 0
    try:
        return int(decimal_point(value) if isinstance(value, str) else value)
    except ValueError:
        return 0


def _is_name(text: str) -> bool:
    """Return whether a text can be a version or a kind."""
    return text.isprintable() and 0 < len(text.strip()) <= MAX_NAME_LENGTH


def _check_keys(data: object, valid_keys: Sequence[str], place: str) -> Json:
    """Return `data`, after a check that it is a mapping with valid keys only.

    Args:
        data: Parsed YAML.
        valid_keys: Keys that the mapping may have.
        place: Where the data is from, for errors.

    Raises:
        InputError: The data is no mapping, or has other keys.
    """
    if not isinstance(data, dict):
        raise InputError(f"{place} is no list of `key: value`: write {', '.join(valid_keys)}")
    for key in data:
        if key not in valid_keys:
            raise InputError(f"{place}: unknown key {key!r}; {suggest_name(str(key), valid_keys)}")
    return data
