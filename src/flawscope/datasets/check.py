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
from flawscope.datasets.masks import GroundTruth, read_any_mask
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
MAX_SHOWN = 5  # findings of one code that `CheckReport.lines` spells out; of many nearly alike only one
BY_REMARKS = ("nearly-copy", "nearly-unsure")  # codes that remarks sum up for people
MIN_SPREAD = 1.0  # grey levels of spread in the thumbnail below which a picture shows nothing
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
        remarks: Remarks that a fit makes on the findings whose codes are in `BY_REMARKS`.
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

        Each of `remarks` counts as a note, in place of the findings that it sums up.
        """
        spoken = [finding.severity for finding in self.findings if finding.code not in BY_REMARKS]
        totals = {severity: spoken.count(severity) for severity in SEVERITIES}
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
        findings = [asdict(finding) | {"others": list(finding.others)} for finding in self.findings]
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
        text = [f"{self.category} ({self.layout} layout) in {self.root}"]
        splits = {split for split, _, _ in self.counts}
        for split, kind, number in self.counts:
            place = f"{SPLIT_WORDS[split]:<15} " if len(splits) > 1 else ""
            text.append(f"  {place}{kind:<20} {number:>6}")
        if self.sizes:
            text.append(f"  sizes: {_sizes_text(self.sizes, MAX_SHOWN)}")
            text.append(f"  pixels: {', '.join(f'{m} ({n})' for m, n in self.modes)}")
        totals = ", ".join(pluralize(n, s) for s, n in self.totals.items() if n)
        return [*text, *self.finding_lines(), totals or "nothing found"]

    def finding_lines(self) -> list[str]:
        """Return the findings as lines for people; of each code the first `MAX_SHOWN` are spelt out."""
        text = list[str]()
        groups = dict[tuple[str, str], list[Finding]]()
        for finding in self.findings:
            if finding.code not in BY_REMARKS:
                groups.setdefault((finding.severity, finding.code), []).append(finding)
        for (severity, code), group in groups.items():
            few = 1 if code.startswith("nearly") and len(group) > MAX_SHOWN else MAX_SHOWN
            text += [finding.line() for finding in group[:few]]
            if len(group) > few:
                text.append(f"{severity}: {code}: {len(group) - few} more of these; --json lists all")
        text += [f"note: {line}" for line in self.remarks]
        return text


def _form_document(form: ReadForm) -> Json:
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
    seen = list(_check_pictures(dataset, progress))
    readable = [picture for picture in seen if picture.digest]
    sizes = Counter(picture.size for picture in readable)
    modes = Counter(picture.mode for picture in readable if picture.mode)
    findings = [finding for picture in seen for finding in picture.faults]
    findings += _shows_nothing(dataset, readable)
    findings += exact_copies(dataset, readable)
    parts = None
    if near:
        nearly, parts = near_duplicate_findings(dataset, readable, group)
        findings += nearly
    findings += _mixed_findings(dataset, readable, sizes, modes)
    findings += _reduced(sizes)
    findings += _set_findings(dataset)
    findings += _too_few_pictures(range(len(dataset.train)) if parts is None else parts.numbers)
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.code, natural_key(f.subject)))
    counted_sizes = [(width, height, count) for (width, height), count in _by_frequency(sizes)]
    return CheckReport(
        root=str(dataset.root),
        category=dataset.category,
        layout=dataset.layout,
        counts=tuple(_counts(dataset)),
        sizes=tuple(counted_sizes),
        modes=tuple(_by_frequency(modes)),
        findings=tuple(findings),
        forms=tuple(_forms(seen)),
        remarks=() if parts is None else tuple(parts.remarks),
    )


def _set_findings(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings on labels, names and files, without a look at the pictures."""
    if dataset.truth:
        yield from _label_faults(dataset, dataset.truth)
        yield from _unused_pictures(dataset, dataset.truth)
    for look in (_called_otherwise, _masks_missing, _other_files, _nothing_to_test):
        yield from look(dataset)


def _reduced(sizes: Counter[tuple[int, int]]) -> Iterator[Finding]:
    """Yield the finding that a fit reduces the pictures to its default size; `sizes` are (width, height)."""
    found = reduction_remark([(height, width) for width, height in sizes.elements()])
    if found:
        yield Finding("note", "reduced", ".", *found)


def _counts(dataset: Dataset) -> Iterator[tuple[str, str, int]]:
    for split, items in dataset.splits.items():
        kinds = Counter((item.anomalous, item.kind) for item in items)
        for (_, kind), number in sorted(kinds.items(), key=lambda e: (e[0][0], natural_key(e[0][1]))):
            yield split, kind, number


def _forms(seen: Sequence[CheckedPicture]) -> Iterator[ReadForm]:
    by_form: dict[tuple[str, str], list[Item]] = {}
    for picture in seen:
        pixels = f"{picture.item.path.suffix.lower()}, {picture.mode or 'nothing to see'}"
        if picture.digest:
            by_form.setdefault((pixels, describe_marks(picture.item)), []).append(picture.item)
    for (pixels, marks), items in sorted(by_form.items(), key=lambda form: -len(form[1])):
        yield ReadForm(pixels, marks, items[0], len(items))


def _sizes_text(sizes: Sequence[tuple[int, int, int]], most: int) -> str:
    """Return a text with the first `most` sizes (width, height, pictures), and the number of the others."""
    named = ", ".join(f"{w}x{h} ({n})" for w, h, n in sizes[:most])
    return f"{named} and {len(sizes) - most} more" if len(sizes) > most else named


def _by_frequency(numbers: Counter[_T]) -> list[tuple[_T, int]]:
    """Sort by frequency, most frequent first, equally frequent ones by value."""
    return sorted(numbers.items(), key=lambda entry: (-entry[1], entry[0]))


# ------------------------------------------------------------------------------------- one picture at a time


def _check_pictures(dataset: Dataset, progress: Progress | None) -> Iterator[CheckedPicture]:
    jobs = [(split, item) for split, items in dataset.splits.items() for item in items]
    with ThreadPoolExecutor(2) as pool:
        try:
            for done, seen in enumerate(pool.map(lambda job: _check_picture(dataset, *job), jobs), start=1):
                if progress:
                    progress(done, len(jobs))
                yield seen
        finally:
            pool.shutdown(cancel_futures=True)


def _check_picture(dataset: Dataset, split: str, item: Item) -> CheckedPicture:
    subject = dataset.relative(item.path)
    channels = ""
    try:
        picture, channels = first_group(item.path)
    except (InputError, OSError, MemoryError) as error:
        return CheckedPicture(split, item, faults=(_unreadable("unreadable", subject, item.path, error),))
    size = (picture.shape[1], picture.shape[0])
    look = Look.of(picture)
    faults = list(_mask_faults(dataset, item, size))
    plain = spread_of(look) < MIN_SPREAD
    if plain:
        message = "shows nothing: the same brightness everywhere"
        faults.append(Finding("warning", "plain", subject, message, "remove it if it is a mishap"))
    if channels:
        message = f"has {channels}"
        faults.append(Finding("note", "channels", subject, message, "fit with --channels all"))
    mode = "" if plain else f"{pixel_format(picture)}{channels and f' ({channels})'}"
    return CheckedPicture(split, item, size, mode, pixel_hash(picture), look, tuple(faults))


def _unreadable(code: str, subject: str, path: Path, error: Exception) -> Finding:
    """Finding of an unreadable file, without the path that the error repeats; reason and remedy apart."""
    if isinstance(error, PermissionError):
        return Finding("error", code, subject, str(error.strerror), "give this user the rights to it")
    reason, _, remedy = one_line_message(error).rpartition(f"{path}: ")[2].partition("; ")
    return Finding("error", code, subject, reason, remedy or "replace or remove the file")


def _mask_faults(dataset: Dataset, item: Item, size: tuple[int, int]) -> Iterator[Finding]:
    marked = False
    for path in item.masks:
        subject = dataset.relative(path)
        try:
            mask = read_any_mask(path)
        except (InputError, OSError, MemoryError) as error:
            yield _unreadable("mask-unreadable", subject, Path(path), error)
            return
        height, width = mask.shape
        if (width, height) != size:
            yield _mask_size(subject, (width, height), size)
        elif doubt := turn_doubt(item.path, [path], mask.shape):
            yield Finding("warning", "mask-turned", subject, f"its picture {doubt}", "store it upright")
        marked = marked or bool(mask.any())
        if most := marks_most(mask):
            yield Finding(
                "warning", "mask-most", subject, most, "make what is defective white, the rest black"
            )
    if item.masks and not marked:
        subject = dataset.relative(item.masks[0])
        message = "nothing is marked, although the picture counts as defective"
        yield Finding("warning", "mask-empty", subject, message, "mark the defect or move the picture")


def _mask_size(subject: str, size: tuple[int, int], picture_size: tuple[int, int]) -> Finding:
    """Finding of a mask that has another size (width, height) than its picture."""
    width, height = size
    stretched = abs(width * picture_size[1] - height * picture_size[0]) > 0.01 * height * picture_size[0]
    shape = ", and another shape" if stretched else ""
    pixels = f"{picture_size[0]}x{picture_size[1]}"
    message = f"the mask has {width}x{height} pixels, its picture {pixels}{shape}"
    severity = "error" if stretched else "warning"
    return Finding(severity, "mask-size", subject, message, "make the mask from the picture as it is")


# ---------------------------------------------------------------------------------------- the set as a whole


def _mixed_findings(
    dataset: Dataset, seen: Sequence[CheckedPicture], sizes: Counter[tuple[int, int]], modes: Counter[str]
) -> Iterator[Finding]:
    if len(sizes) > 1:
        ranked = [(*size, n) for size, n in _by_frequency(sizes)]
        ((usual, count),) = sizes.most_common(1)
        others = [picture.item.path for picture in seen if picture.size != usual and 2 * count > len(seen)]
        message = f"{len(sizes)} picture sizes: {_sizes_text(ranked, 4)}"
        remedy = "use one camera setting, or expect other scores"
        yield Finding("warning", "mixed-sizes", ".", message, remedy, tuple(map(dataset.relative, others)))
    if len(modes) > 1:
        named = ", ".join(f"{mode} ({n})" for mode, n in _by_frequency(modes))
        yield Finding("warning", "mixed-modes", ".", f"different kinds of pixels: {named}", "store all alike")


def _shows_nothing(dataset: Dataset, seen: Sequence[CheckedPicture]) -> Iterator[Finding]:
    """Yield findings of good pictures that show nothing beside the others; `fit` remarks on them, too."""
    good = [picture for picture in seen if picture.split == "train" and picture.look is not None]
    for picture in (good[k] for k in find_blank_pictures([picture.look for picture in good])):
        if not any(fault.code == "plain" for fault in picture.faults):
            subject = dataset.relative(picture.item.path)
            yield Finding("warning", "plain", subject, f"shows {NOTHING}", "remove it if it is a mishap")


def _masks_missing(dataset: Dataset) -> Iterator[Finding]:
    bad = [item for item in dataset.test if item.anomalous]
    if bad and not dataset.has_masks:
        reasons = count_reasons(item.unmarked for item in bad if item.left_out)
        message = "no masks of the defects: there will be figures per picture, none per pixel"
        message += f" ({reasons})" if reasons else ""
        yield Finding("note", "no-masks", ".", message, "add ground_truth/KIND/NAME_mask.png to have them")
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
    for form, read in truth.labels.summaries().items():
        yield _form_finding(dataset, form, read)
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
    masks = [mask for item in dataset.test for mask in item.masks]
    boxes = sum(mask.boxes for mask in masks if isinstance(mask, PictureLabels))
    if boxes:
        message = f"{boxes} of the marked places {'are boxes' if boxes > 1 else 'is a box'}, not outlined"
        remedy = "outline the defects; until then pixel figures measure boxes"
        yield Finding("note", "boxes", ".", message, remedy)


def _form_finding(dataset: Dataset, form: str, read: FormSummary) -> Finding:
    """Return the finding that counts the read and the left-out marks of a form's files."""
    subject = dataset.relative(read.files[0]) if len(read.files) == 1 else "."
    kinds = _counted(read.kinds)
    message = (
        f"{pluralize(len(read.files), 'file')} of {form}: {pluralize(read.kinds.total(), 'mark')} in "
        f"{pluralize(read.pictures, 'picture')}{f' ({kinds})' if kinds else ''}"
    )
    about = _counted(read.about)
    if about:
        message += f"; of whole pictures: {about}"
    left_out = join_names([f"{what} {n}" for what, n in read.left_out.most_common()])
    return Finding("note", "labels", subject, message, f"left out: {left_out or 'nothing'}")


def _counted(words: Counter[str]) -> str:
    return join_names([f"{word} {n}" for word, n in words.most_common() if word])


def _files_of_no_form(dataset: Dataset, truth: GroundTruth) -> Iterator[Finding]:
    """Findings of files that might be labels and are read as none, one for each suffix."""
    by_suffix: dict[str, list[str]] = {}
    for path in truth.labels.of_no_form:
        if path.name != SATURATION_FILE:
            by_suffix.setdefault(path.suffix.lower(), []).append(dataset.relative(path))
    for suffix, names in by_suffix.items():
        more = f", as {len(names) - 1} more {suffix}" if len(names) > 1 else ""
        message = f"is read as no labels{more}"
        yield Finding("note", "no-labels", names[0], message, f"expected: {EXPECTED}", tuple(names[1:]))


def _unused_pictures(dataset: Dataset, truth: GroundTruth) -> Iterator[Finding]:
    """Yield findings of pictures and masks below the category's folder that are in no split."""
    used = {p for items in dataset.splits.values() for i in items for p in (i.path, *i.masks)}
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
        is_in_good = any(map(says_good, path.relative_to(dataset.root).parts[:-1]))
        if path not in used and picture is None and not is_in_good:  # empty masks of good ones are usual
            message = "a mask, but no defective picture goes with it"
            remedy = "name it like its picture, or remove it"
            yield Finding("warning", "mask-stray", dataset.relative(path), message, remedy)
    unused = [path.relative_to(dataset.root).parent for path in truth.pictures if path not in used]
    for folder, number in Counter(unused).items():
        message = f"{pluralize(number, 'picture')} not used"
        yield Finding("note", "unused", folder.as_posix(), message, "move what should take part")


def _called_otherwise(dataset: Dataset) -> Iterator[Finding]:
    """Yield the finding of training pictures that the user named good, and that names or lists do not."""
    if dataset.reviewed or not dataset.drawn_split:  # opening others refuses these
        return
    labels = dataset.truth.labels if dataset.truth else None
    learnt = [item.path for item in dataset.train]
    if doubtful := [*map(dataset.relative, read_class_labels(dataset.root, learnt, labels).doubtful())]:
        message = f"{pluralize(len(doubtful), 'picture')} to learn from not called good as others are: "
        remedy = "leave out what is defective"
        others = tuple(doubtful[1:])
        yield Finding(
            "warning", "called-otherwise", doubtful[0], message + join_names(doubtful), remedy, others
        )


def _other_files(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings of unread files: by folder those that may show a part, in one those beside pictures."""
    unknown: dict[tuple[str, str], list[Path]] = {}
    beside: list[str] = []
    used = _files_used(dataset)
    for path in not_pictures_in(dataset.root):
        if path in used:
            continue
        suffix = path.suffix.lower()
        if suffix in COMPANION_SUFFIXES:
            beside.append(dataset.relative(path))
        else:
            unknown.setdefault((dataset.relative(path.parent), suffix), []).append(path)
    for (folder, suffix), paths in unknown.items():
        kind = f"of a format that is not read ({suffix})" if suffix else "without a suffix, not read"
        message = f"{pluralize(len(paths), 'file')} {kind}: {join_names([path.name for path in paths])}"
        other = OTHER_FILES.get(suffix)
        remedy = other.remedy.format(other.several) if other else "convert pictures to PNG or JPEG"
        others = tuple(map(dataset.relative, paths))
        yield Finding("warning", "unknown-format", folder, message, remedy, others)
    if beside:
        message = f"{pluralize(len(beside), 'file')} beside the pictures: {join_names(beside)}"
        yield Finding("note", "beside", ".", message, "they are not looked at", tuple(beside))


def _files_used(dataset: Dataset) -> set[Path]:
    """Return the files that mark pictures, or describe whole ones."""
    used = {Path(mask) for items in dataset.splits.values() for item in items for mask in item.masks}
    if dataset.truth:
        for form in dataset.truth.labels.summaries().values():
            if form.about:
                used.update(form.files)
    return used


def _too_few_pictures(numbers: Sequence[int]) -> Iterator[Finding]:
    """Yield the finding of too few parts; `numbers` holds the part's number of each good picture."""
    count = len({*numbers})
    if count < PICTURES_FOR_5_PERCENT:
        least = f"no false-alarm rate below {1 / (count + 1):.1%}"
        shown = f" of {pluralize(count, 'part')}" if count < len(numbers) else ""
        message = f"only {pluralize(len(numbers), 'picture')}{shown} to learn from: {least}"
        remedy = f"{PICTURES_FOR_5_PERCENT} or more are needed for 5 %"
        yield Finding("note", "few", ".", message, remedy)


def _nothing_to_test(dataset: Dataset) -> Iterator[Finding]:
    kinds = {item.anomalous for item in dataset.test}
    if kinds == {True, False}:
        return
    message = "no test pictures"
    remedy = "without them nothing can be evaluated"
    if kinds:
        message = f"no {'good' if True in kinds else 'defective'} test pictures"
    elif dataset.layout == "folder":
        good, bad = _folder_names(dataset)
        message = "only good pictures"
        remedy = f"to evaluate, put defects into a folder `{bad}` beside `{good}`"
    yield Finding("note", "no-test", ".", message, remedy)


def _folder_names(dataset: Dataset) -> tuple[str, str]:
    """Return names for folders of good and of defective pictures, in the data set's words."""
    names = [dataset.category, *(part for item in dataset.train[:1] for part in item.path.parts[:-1])]
    good = next((name for name in reversed(names) if says_good(name)), "good")
    return good, opposite(good)
