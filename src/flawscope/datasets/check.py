"""Finds faults of a data set that would spoil a model or its figures unnoticed.

`check` decodes every picture once and keeps only its hash, its size and a thumbnail of 8 KB, so that
10,000 pictures of any size need about 100 MB.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flawscope.datasets.class_labels import read_class_labels
from flawscope.datasets.copies import CheckedPicture, exact_copies, near_duplicate_findings
from flawscope.datasets.copies import Finding as Finding
from flawscope.datasets.dataset import SPLIT_WORDS, Dataset, Item, count_reasons
from flawscope.datasets.labels import FormSummary, PictureLabels
from flawscope.datasets.labels.forms import EXPECTED
from flawscope.datasets.layouts import open_dataset
from flawscope.datasets.mask_remarks import describe_marks, marked_good, turn_doubt
from flawscope.datasets.masks import GroundTruth, Mask, read_any_mask
from flawscope.datasets.published import SATURATION_FILE
from flawscope.errors import InputError, join_names, one_line_message, pluralize
from flawscope.pictures.appearance import pixel_format
from flawscope.pictures.channels import first_group
from flawscope.pictures.decoding import pixel_hash
from flawscope.pictures.defect_size import reduction_remark
from flawscope.pictures.empty_pictures import NOTHING, find_blank_pictures, spread_of
from flawscope.pictures.folder_words import opposite, says_good
from flawscope.pictures.listing import COMPANION_SUFFIXES, natural_key, not_pictures_in
from flawscope.pictures.mask_files import seem_masks
from flawscope.pictures.masks import marks_most
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.other_files import OTHER_FILES

if TYPE_CHECKING:
    from flawscope.types import Json

_T = TypeVar("_T", str, tuple[int, int])
Progress = Callable[[int, int], None]

SEVERITIES = ("error", "warning", "note")
MAX_SHOWN = 5  # findings of one code that `CheckReport.lines` spells out
BY_REMARKS = ("nearly-copy", "nearly-unsure")  # codes of findings that remarks sum up for people
MIN_SPREAD = 1.0  # spread of grey levels in the thumbnail; a picture with less shows nothing
MAX_RATIO_DIFFERENCE = 0.01  # a mask whose sides' ratio differs by more has another shape than its picture
PICTURES_FOR_5_PERCENT = 19  # of n pictures, no false-alarm rate below 1 / (n + 1) is possible


class ReadForm(NamedTuple):
    """Form in which pictures and their masks are stored, with the number of such pictures.

    Attributes:
        pixels: File suffix and pixel format, in words.
        marks: How the defects are marked, in words.
        item: An example picture of this form.
        pictures: Number of pictures of this form.
    """

    pixels: str
    marks: str
    item: Item
    pictures: int


@dataclass(frozen=True)
class CheckReport:
    """Findings of a check: `lines` writes them for people, `to_dict` for programs.

    Attributes:
        remarks: Lines that sum up the findings whose codes are in `BY_REMARKS`; a fit has the same remarks.
    """

    root: str
    category: str
    layout: str
    counts: tuple[tuple[str, str, int], ...]  # split, kind, pictures
    sizes: tuple[tuple[int, int, int], ...]  # width, height, pictures; most frequent first
    modes: tuple[tuple[str, int], ...]  # "colour", "grey", "16-bit grey", ...; most frequent first
    findings: tuple[Finding, ...]  # errors first
    forms: tuple[ReadForm, ...] = ()  # most frequent first
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no errors. Warnings deserve a look, notes inform."""
        return not self.totals["error"]

    @property
    def totals(self) -> dict[str, int]:
        """Number of findings by severity.

        Each remark counts as one note; the findings that it sums up are not counted.
        """
        severities = [finding.severity for finding in self.findings if finding.code not in BY_REMARKS]
        totals = {severity: severities.count(severity) for severity in SEVERITIES}
        totals["note"] += len(self.remarks)
        return totals

    def to_dict(self) -> Json:
        """Return the report as values that JSON can hold."""
        counts = []
        for split, kind, count in self.counts:
            counts.append({"split": split, "kind": kind, "pictures": count})
        sizes = []
        for width, height, count in self.sizes:
            sizes.append({"width": width, "height": height, "pictures": count})
        modes = [{"mode": mode, "pictures": count} for mode, count in self.modes]
        forms = [_form_document(form) for form in self.forms]
        findings = []
        for finding in self.findings:
            fields = asdict(finding)
            fields["others"] = list(finding.others)
            findings.append(fields)
        return {
            "root": self.root,
            "category": self.category,
            "layout": self.layout,
            "ok": self.ok,
            "counts": counts,
            "sizes": sizes,
            "modes": modes,
            "forms": forms,
            "totals": self.totals,
            "findings": findings,
            "remarks": list(self.remarks),
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text for people."""
        lines = [f"{self.category} ({self.layout} layout) in {self.root}"]
        splits = {split for split, _, _ in self.counts}
        for split, kind, count in self.counts:
            purpose = f"{SPLIT_WORDS[split]:<15} " if len(splits) > 1 else ""
            lines.append(f"  {purpose}{kind:<20} {count:>6}")
        if self.sizes:
            modes = ", ".join(f"{mode} ({count})" for mode, count in self.modes)
            lines.append(f"  sizes: {_sizes_text(self.sizes, MAX_SHOWN)}")
            lines.append(f"  pixels: {modes}")
        totals = ", ".join(pluralize(count, severity) for severity, count in self.totals.items() if count)
        return [*lines, *self.finding_lines(), totals or "nothing found"]

    def finding_lines(self) -> list[str]:
        """Return the findings as lines for people, then the remarks.

        For each code, the first `MAX_SHOWN` findings are spelt out, and the others are counted. For a code of
        near-duplicates with more findings than that, only the first is spelt out.
        """
        lines = list[str]()
        groups = dict[tuple[str, str], list[Finding]]()
        for finding in self.findings:
            if finding.code not in BY_REMARKS:
                groups.setdefault((finding.severity, finding.code), []).append(finding)
        for (severity, code), group in groups.items():
            has_many_near_duplicates = code.startswith("nearly") and len(group) > MAX_SHOWN
            line_count = 1 if has_many_near_duplicates else MAX_SHOWN
            lines += [finding.line() for finding in group[:line_count]]
            if len(group) > line_count:
                lines.append(f"{severity}: {code}: {len(group) - line_count} more of these; --json lists all")
        lines += [f"note: {remark}" for remark in self.remarks]
        return lines


def _form_document(form: ReadForm) -> Json:
    """Return a form as values that JSON can hold."""
    return {
        "pixels": form.pixels,
        "marks": form.marks,
        "pictures": form.pictures,
        "example": str(form.item.path),
    }


def check(
    data: Dataset | str | os.PathLike[str],
    *,
    near: bool = True,
    group: str | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check every picture and mask of one category and report faults as findings.

    Args:
        data: Data set, or its folder as `open_dataset` takes it.
        near: Whether to search for pictures that are nearly the same.
        group: Regular expression that finds a picture's part in its name, as in `open_dataset`.
        progress: Called as `progress(done, total)` from the calling thread after each picture.

    Raises:
        InputError: There is no data set to check.
    """
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    pictures = list(_check_pictures(dataset, progress))
    readable = [picture for picture in pictures if picture.digest]
    sizes = Counter(picture.size for picture in readable)
    modes = Counter(picture.mode for picture in readable if picture.mode)
    findings = [finding for picture in pictures for finding in picture.faults]
    findings += _blank_pictures(dataset, readable)
    findings += exact_copies(dataset, readable)
    units = None
    if near:
        near_findings, units = near_duplicate_findings(dataset, readable, group)
        findings += near_findings
    findings += _mixed_findings(dataset, readable, sizes, modes)
    findings += _size_reduction(sizes)
    findings += _dataset_findings(dataset)
    # without a search for near-duplicates, each picture counts as a part
    part_numbers = range(len(dataset.train)) if units is None else units.numbers
    findings += _too_few_pictures(part_numbers)
    findings.sort(key=_finding_order)
    counted_sizes = [(width, height, count) for (width, height), count in _by_frequency(sizes)]
    return CheckReport(
        root=str(dataset.root),
        category=dataset.category,
        layout=dataset.layout,
        counts=tuple(_counts(dataset)),
        sizes=tuple(counted_sizes),
        modes=tuple(_by_frequency(modes)),
        findings=tuple(findings),
        forms=tuple(_forms(pictures)),
        remarks=() if units is None else tuple(units.remarks),
    )


def _finding_order(finding: Finding) -> tuple[object, ...]:
    """Return the key that sorts findings: errors first, then by code, then by subject."""
    return SEVERITIES.index(finding.severity), finding.code, natural_key(finding.subject)


def _dataset_findings(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings on labels, names and files, for which no picture is read."""
    if dataset.truth:
        yield from _label_faults(dataset, dataset.truth)
        yield from _unused_pictures(dataset, dataset.truth)
    yield from _doubtful_training_pictures(dataset)
    yield from _masks_missing(dataset)
    yield from _other_files(dataset)
    yield from _nothing_to_test(dataset)


def _size_reduction(sizes: Counter[tuple[int, int]]) -> Iterator[Finding]:
    """Yield a finding if a fit would reduce the pictures to its default size.

    Args:
        sizes: Number of pictures of each size (width, height).
    """
    remark = reduction_remark([(height, width) for width, height in sizes.elements()])
    if remark:
        message, remedy = remark
        yield Finding("note", "reduced", subject=".", message=message, remedy=remedy)


def _counts(dataset: Dataset) -> Iterator[tuple[str, str, int]]:
    """Yield split, kind and number of pictures; in each split the kinds of good pictures come first."""

    def order(group: tuple[bool, str]) -> tuple[object, ...]:
        anomalous, kind = group
        return anomalous, natural_key(kind)

    for split, items in dataset.splits.items():
        counts = Counter((item.anomalous, item.kind) for item in items)
        for anomalous, kind in sorted(counts, key=order):
            yield split, kind, counts[anomalous, kind]


def _forms(pictures: Sequence[CheckedPicture]) -> Iterator[ReadForm]:
    """Yield the forms of the pictures that could be read, most frequent first."""
    items_by_form: dict[tuple[str, str], list[Item]] = {}
    for picture in pictures:
        if picture.digest:  # empty where the picture could not be read
            # file suffix and pixel format in words, which a form calls its `pixels`
            file_format = f"{picture.item.path.suffix.lower()}, {picture.mode or 'nothing to see'}"
            marks = describe_marks(picture.item)
            items_by_form.setdefault((file_format, marks), []).append(picture.item)
    forms = []
    for (file_format, marks), items in items_by_form.items():
        forms.append(ReadForm(pixels=file_format, marks=marks, item=items[0], pictures=len(items)))
    yield from sorted(forms, key=lambda form: form.pictures, reverse=True)


def _sizes_text(sizes: Sequence[tuple[int, int, int]], limit: int) -> str:
    """Return a text with the first `limit` sizes, and how many others there are.

    Args:
        sizes: Width, height and number of pictures of each size.
        limit: Number of sizes that are spelt out.
    """
    text = ", ".join(f"{width}x{height} ({count})" for width, height, count in sizes[:limit])
    return f"{text} and {len(sizes) - limit} more" if len(sizes) > limit else text


def _by_frequency(counts: Counter[_T]) -> list[tuple[_T, int]]:
    """Return values with their counts, most frequent first; equally frequent values are sorted."""

    def order(entry: tuple[_T, int]) -> tuple[int, _T]:
        value, count = entry
        return -count, value

    return sorted(counts.items(), key=order)


# ------------------------------------------------------------------------------------- one picture at a time


def _check_pictures(dataset: Dataset, progress: Progress | None) -> Iterator[CheckedPicture]:
    """Yield the facts of each picture, in the order of the splits; two threads read the pictures."""
    splits: list[str] = []  # the split of each of `items`
    items: list[Item] = []
    for split, split_items in dataset.splits.items():
        splits += [split] * len(split_items)
        items += split_items
    with ThreadPoolExecutor(2) as pool:
        try:
            pictures = pool.map(partial(_check_picture, dataset), splits, items)
            for done, picture in enumerate(pictures, start=1):
                if progress:
                    progress(done, len(items))
                yield picture
        finally:
            pool.shutdown(cancel_futures=True)


def _check_picture(dataset: Dataset, split: str, item: Item) -> CheckedPicture:
    """Read a picture and its masks, and return its facts and faults.

    If the picture cannot be read, this fault is the only one, and there are no facts.
    """
    subject = dataset.relative(item.path)
    try:
        picture, channels = first_group(item.path)  # `channels`: empty, or words on more than usual
    except (InputError, OSError, MemoryError) as error:
        return CheckedPicture(split, item, faults=(_unreadable("unreadable", subject, item.path, error),))
    size = (picture.shape[1], picture.shape[0])
    look = Look.of(picture)
    faults = list(_mask_faults(dataset, item, size))
    is_plain = spread_of(look) < MIN_SPREAD
    if is_plain:
        message = "shows nothing: the same brightness everywhere"
        faults.append(Finding("warning", "plain", subject, message, "remove it if it is a mishap"))
    if channels:
        message = f"has {channels}"
        faults.append(Finding("note", "channels", subject, message, "fit with --channels all"))
    mode = "" if is_plain else pixel_format(picture)
    if channels and not is_plain:
        mode += f" ({channels})"
    return CheckedPicture(
        split, item, size, mode, digest=pixel_hash(picture), look=look, faults=tuple(faults)
    )


def _unreadable(code: str, subject: str, path: Path, error: Exception) -> Finding:
    """Return the finding of an unreadable file.

    Args:
        code: Code of the finding.
        subject: Path of the file as the finding names it.
        path: The file.
        error: Error of reading it, whose message is "PATH: REASON; REMEDY".
    """
    if isinstance(error, PermissionError):
        return Finding("error", code, subject, str(error.strerror), "give this user the rights to it")
    _, _, reason_and_remedy = one_line_message(error).rpartition(f"{path}: ")
    reason, _, remedy = reason_and_remedy.partition("; ")
    return Finding("error", code, subject, reason, remedy or "replace or remove the file")


def _mask_faults(dataset: Dataset, item: Item, size: tuple[int, int]) -> Iterator[Finding]:
    """Yield the faults of a picture's masks; `size` is the picture's (width, height)."""
    is_marked = False
    for mask_source in item.masks:  # a mask's file, or labels in a file
        subject = dataset.relative(mask_source)
        try:
            mask = read_any_mask(mask_source)
        except (InputError, OSError, MemoryError) as error:
            yield _unreadable("mask-unreadable", subject, Path(mask_source), error)
            return
        height, width = mask.shape
        if (width, height) != size:
            yield _mask_size(subject, size=(width, height), picture_size=size)
        elif doubt := turn_doubt(item.path, [mask_source], mask.shape):
            yield Finding("warning", "mask-turned", subject, f"its picture {doubt}", "store it upright")
        is_marked = is_marked or bool(mask.any())
        if message := marks_most(mask):
            remedy = "make what is defective white, the rest black"
            yield Finding("warning", "mask-most", subject, message, remedy)
    if item.masks and not is_marked:
        subject = dataset.relative(item.masks[0])
        message = "nothing is marked, although the picture counts as defective"
        yield Finding("warning", "mask-empty", subject, message, "mark the defect or move the picture")


def _mask_size(subject: str, size: tuple[int, int], picture_size: tuple[int, int]) -> Finding:
    """Return the finding of a mask that has another size (width, height) than its picture."""
    width, height = size
    picture_width, picture_height = picture_size
    # width / height of the mask and of the picture, each times the product of the two heights: whole numbers
    scaled_ratio = width * picture_height
    scaled_picture_ratio = picture_width * height
    is_other_shape = abs(scaled_ratio - scaled_picture_ratio) > MAX_RATIO_DIFFERENCE * scaled_picture_ratio
    shape = ", and another shape" if is_other_shape else ""
    message = f"the mask has {width}x{height} pixels, its picture {picture_width}x{picture_height}{shape}"
    severity = "error" if is_other_shape else "warning"
    return Finding(severity, "mask-size", subject, message, "make the mask from the picture as it is")


# ---------------------------------------------------------------------------------------- the set as a whole


def _mixed_findings(
    dataset: Dataset,
    pictures: Sequence[CheckedPicture],
    sizes: Counter[tuple[int, int]],
    modes: Counter[str],
) -> Iterator[Finding]:
    """Yield a finding if pictures have different sizes, and another if they have different modes.

    If most pictures have the same size, the first finding names the pictures of other sizes.

    Args:
        dataset: The data set.
        pictures: Pictures that could be read.
        sizes: Number of pictures of each size (width, height).
        modes: Number of pictures of each mode.
    """
    if len(sizes) > 1:
        ranked_sizes = [(width, height, count) for (width, height), count in _by_frequency(sizes)]
        ((usual_size, usual_count),) = sizes.most_common(1)
        other_paths = []
        if 2 * usual_count > len(pictures):  # most pictures have the usual size
            other_paths = [picture.item.path for picture in pictures if picture.size != usual_size]
        message = f"{len(sizes)} picture sizes: {_sizes_text(ranked_sizes, limit=4)}"
        remedy = "use one camera setting, or expect other scores"
        others = tuple(map(dataset.relative, other_paths))
        yield Finding("warning", "mixed-sizes", subject=".", message=message, remedy=remedy, others=others)
    if len(modes) > 1:
        mode_counts = ", ".join(f"{mode} ({count})" for mode, count in _by_frequency(modes))
        message = f"different kinds of pixels: {mode_counts}"
        yield Finding("warning", "mixed-modes", subject=".", message=message, remedy="store all alike")


def _blank_pictures(dataset: Dataset, pictures: Sequence[CheckedPicture]) -> Iterator[Finding]:
    """Yield findings of good pictures that show nothing in comparison with the others."""
    good = [picture for picture in pictures if picture.split == "train" and picture.look is not None]
    for number in find_blank_pictures([picture.look for picture in good]):
        picture = good[number]
        is_reported = any(fault.code == "plain" for fault in picture.faults)
        if not is_reported:
            subject = dataset.relative(picture.item.path)
            yield Finding("warning", "plain", subject, f"shows {NOTHING}", "remove it if it is a mishap")


def _masks_missing(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings of defects without a mask; one finding where no defect has a mask."""
    bad = [item for item in dataset.test if item.anomalous]
    if bad and not dataset.has_masks:
        reasons = count_reasons(item.unmarked for item in bad if item.left_out)  # of unusable marks
        message = "no masks of the defects: there will be figures per picture, none per pixel"
        message += f" ({reasons})" if reasons else ""
        remedy = "add ground_truth/KIND/NAME_mask.png to have them"
        yield Finding("note", "no-masks", subject=".", message=message, remedy=remedy)
        return
    remedy = "add the mask, or pixel figures leave it out"
    for item in bad:
        if not item.masks:
            subject = dataset.relative(item.path)
            reasons = f": {join_names(item.left_out)}" if item.left_out else ""
            message = f"defective, but without a mask{reasons}"
            yield Finding("warning", "mask-missing", subject, message, remedy)


def _label_faults(dataset: Dataset, truth: GroundTruth) -> Iterator[Finding]:
    """Yield faults of files from labelling tools."""
    yield from _boxes_finding(dataset)
    for form, summary in truth.labels.summaries().items():
        yield _form_finding(dataset, form, summary)
    for path, reason in truth.labels.unreadable.items():
        message = f"could not be read ({reason})"
        yield Finding("error", "labels-unreadable", dataset.relative(path), message, "export it again")
    for source, reason in truth.labels.scale_doubts():
        remedy = "if it was made on smaller pictures, mark these"
        yield Finding("warning", "labels-scale", source, reason, remedy)
    yield from _files_of_no_form(dataset, truth)
    for path, names in truth.labels.without_picture.items():
        message = f"marks something in {join_names(names)}, and there is no such picture"
        remedy = "name pictures as the file does, or remove the file"
        yield Finding("warning", "label-stray", dataset.relative(path), message, remedy)
    for picture, mask in marked_good(dataset):
        message = f"counts as good, but {dataset.relative(mask)} marks something in it"
        remedy = "move the picture, or remove the mark"
        yield Finding("warning", "good-marked", dataset.relative(picture), message, remedy)


def _boxes_finding(dataset: Dataset) -> Iterator[Finding]:
    """Yield the finding that some defects are marked by boxes."""
    masks = [mask for item in dataset.test for mask in item.masks]
    box_count = sum(mask.boxes for mask in masks if isinstance(mask, PictureLabels))
    if box_count:
        are_boxes = "are boxes" if box_count > 1 else "is a box"
        message = f"{box_count} of the marked places {are_boxes}, not outlined"
        remedy = "outline the defects; until then pixel figures measure boxes"
        yield Finding("note", "boxes", subject=".", message=message, remedy=remedy)


def _form_finding(dataset: Dataset, form: str, summary: FormSummary) -> Finding:
    """Return the finding on the label files of one form: how many marks were read, and how many left out."""
    files = summary.files
    mark_counts = summary.kinds  # by kind
    subject = dataset.relative(files[0]) if len(files) == 1 else "."
    message = (
        f"{pluralize(len(files), 'file')} of {form}: {pluralize(mark_counts.total(), 'mark')} in "
        f"{pluralize(summary.pictures, 'picture')}"
    )
    if kind_counts := _count_words(mark_counts):
        message += f" ({kind_counts})"
    if picture_labels := _count_words(summary.about):
        message += f"; of whole pictures: {picture_labels}"
    left_out = join_names([f"{reason} {count}" for reason, count in summary.left_out.most_common()])
    return Finding("note", "labels", subject, message, f"left out: {left_out or 'nothing'}")


def _count_words(words: Counter[str]) -> str:
    """Return words with their counts as a text, most frequent first; empty words are left out."""
    return join_names([f"{word} {count}" for word, count in words.most_common() if word])


def _files_of_no_form(dataset: Dataset, truth: GroundTruth) -> Iterator[Finding]:
    """Yield a finding for each suffix of files that might be labels but have no known form."""
    names_by_suffix: dict[str, list[str]] = {}
    for path in truth.labels.of_no_form:
        if path.name != SATURATION_FILE:  # a file of MVTec LOCO that is not meant as labels
            names_by_suffix.setdefault(path.suffix.lower(), []).append(dataset.relative(path))
    for suffix, names in names_by_suffix.items():
        more = f", as {len(names) - 1} more {suffix}" if len(names) > 1 else ""
        message = f"is read as no labels{more}"
        yield Finding("note", "no-labels", names[0], message, f"expected: {EXPECTED}", tuple(names[1:]))


def _unused_pictures(dataset: Dataset, truth: GroundTruth) -> Iterator[Finding]:
    """Yield findings of pictures and masks below the category's folder that are in no split."""
    used: set[Mask] = set()  # pictures and their masks
    for items in dataset.splits.values():
        for item in items:
            used |= {item.path, *item.masks}
    for path in seem_masks(truth.pictures):
        message = "looks like a mask, but is no picture's by its name: it counts as a picture"
        remedy = "name it a_mask.png of a.png, or remove it"
        yield Finding("warning", "mask-unpaired", dataset.relative(path), message, remedy)
    overlays = tuple(map(dataset.relative, truth.overlays))
    if overlays:
        message = f"{pluralize(len(overlays), 'picture')} that are others with something drawn in: "
        remedy = "they are passed over; if they are defects, give the folder another name"
        yield Finding("note", "overlays", overlays[0], message + join_names(overlays), remedy, overlays)
    for path, picture in truth.masks.items():
        folders = path.relative_to(dataset.root).parent.parts
        is_of_good = any(map(says_good, folders))  # good pictures may have empty masks
        if path not in used and picture is None and not is_of_good:
            message = "a mask, but no defective picture goes with it"
            remedy = "name it like its picture, or remove it"
            yield Finding("warning", "mask-stray", dataset.relative(path), message, remedy)
    unused_folders = [path.relative_to(dataset.root).parent for path in truth.pictures if path not in used]
    for folder, count in Counter(unused_folders).items():
        message = f"{pluralize(count, 'picture')} not used"
        yield Finding("note", "unused", folder.as_posix(), message, "move what should take part")


def _doubtful_training_pictures(dataset: Dataset) -> Iterator[Finding]:
    """Yield the finding of training pictures that the user calls good, but names or lists do not."""
    # a review, and data with a split of their own, say themselves which pictures are good
    if dataset.reviewed or not dataset.drawn_split:
        return
    label_files = dataset.truth.labels if dataset.truth else None
    training_pictures = [item.path for item in dataset.train]
    labels = read_class_labels(dataset.root, training_pictures, label_files)
    doubtful = [dataset.relative(path) for path in labels.doubtful()]
    if doubtful:
        message = f"{pluralize(len(doubtful), 'picture')} to learn from not called good as others are: "
        message += join_names(doubtful)
        remedy = "leave out what is defective"
        others = tuple(doubtful[1:])
        yield Finding("warning", "called-otherwise", doubtful[0], message, remedy, others)


def _other_files(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings of files that are not read.

    The usual companions of pictures, such as text files, are one finding together. For all other files, which
    may be pictures, there is a finding for each folder and suffix.
    """
    unknown_files: dict[tuple[str, str], list[Path]] = {}  # by folder and suffix
    companions: list[str] = []
    used = _files_used(dataset)
    for path in not_pictures_in(dataset.root):
        if path in used:
            continue
        suffix = path.suffix.lower()
        if suffix in COMPANION_SUFFIXES:
            companions.append(dataset.relative(path))
        else:
            unknown_files.setdefault((dataset.relative(path.parent), suffix), []).append(path)
    for (folder, suffix), paths in unknown_files.items():
        reason = f"of a format that is not read ({suffix})" if suffix else "without a suffix, not read"
        message = f"{pluralize(len(paths), 'file')} {reason}: {join_names([path.name for path in paths])}"
        known_kind = OTHER_FILES.get(suffix)
        remedy = "convert pictures to PNG or JPEG"
        if known_kind:
            remedy = known_kind.remedy.format(known_kind.several)
        others = tuple(map(dataset.relative, paths))
        yield Finding("warning", "unknown-format", folder, message, remedy, others)
    if companions:
        message = f"{pluralize(len(companions), 'file')} beside the pictures: {join_names(companions)}"
        remedy = "they are not looked at"
        others = tuple(companions)
        yield Finding("note", "beside", subject=".", message=message, remedy=remedy, others=others)


def _files_used(dataset: Dataset) -> set[Path]:
    """Return the files that mark something in pictures, or have labels of whole pictures."""
    used = {Path(mask) for items in dataset.splits.values() for item in items for mask in item.masks}
    if dataset.truth:
        for summary in dataset.truth.labels.summaries().values():
            if summary.about:
                used.update(summary.files)
    return used


def _too_few_pictures(part_numbers: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding if there are too few parts to learn from.

    Args:
        part_numbers: Number of the part of each good picture.
    """
    picture_count = len(part_numbers)
    part_count = len({*part_numbers})
    if part_count < PICTURES_FOR_5_PERCENT:
        lowest_rate = 1 / (part_count + 1)  # the lowest rate that so many parts support
        limit = f"no false-alarm rate below {lowest_rate:.1%}"
        of_parts = f" of {pluralize(part_count, 'part')}" if part_count < picture_count else ""
        message = f"only {pluralize(picture_count, 'picture')}{of_parts} to learn from: {limit}"
        remedy = f"{PICTURES_FOR_5_PERCENT} or more are needed for 5 %"
        yield Finding("note", "few", subject=".", message=message, remedy=remedy)


def _nothing_to_test(dataset: Dataset) -> Iterator[Finding]:
    """Yield the finding that the test split has no good pictures, no defective ones, or neither."""
    has_good = any(not item.anomalous for item in dataset.test)
    has_defects = any(item.anomalous for item in dataset.test)
    if has_good and has_defects:
        return
    message = "no test pictures"
    remedy = "without them nothing can be evaluated"
    if has_good or has_defects:
        missing_class = "good" if has_defects else "defective"
        message = f"no {missing_class} test pictures"
    elif dataset.layout == "folder":
        good, bad = _folder_names(dataset)
        message = "only good pictures"
        remedy = f"to evaluate, put defects into a folder `{bad}` beside `{good}`"
    yield Finding("note", "no-test", subject=".", message=message, remedy=remedy)


def _folder_names(dataset: Dataset) -> tuple[str, str]:
    """Return names for the folders of good and of defective pictures.

    The first is a name in the data set that says good, if there is one; the second is its opposite.
    """
    names = [dataset.category]
    if dataset.train:
        names += dataset.train[0].path.parent.parts
    good = next((name for name in reversed(names) if says_good(name)), "good")
    return good, opposite(good)
