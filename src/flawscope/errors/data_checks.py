"""Lists the data checks: lines about pictures and files that commands print, each with a code.

A code names its check forever: no other check gets the code, even after its check is removed. The table of
docs/troubleshooting.md is made from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckKind(StrEnum):
    """Consequence of a data check."""

    REMARK = "remark"
    QUESTION = "question"
    OPEN_QUESTION = "open question"
    REFUSAL = "refusal"


@dataclass(frozen=True)
class DataCheck:
    """Data check, by which a printed line is found in the documentation.

    Attributes:
        code: Code that is printed at the end of the line, such as FS-G12.
        kind: Consequence of the check.
        line: All forms of the printed line, with `...` in place of names and numbers.
        remedy: Advice for a person, in Markdown.
    """

    code: str
    kind: CheckKind
    line: tuple[str, ...]
    remedy: str

    def coded(self, text: str) -> str:
        """Return a line of this check, with its code at the end."""
        return f"{text} [{self.code}]"


CHECKS: dict[str, DataCheck] = {}
"""All data checks, by code, in the order of their numbers."""


def _check(number: int, kind: CheckKind, *line_forms: str, remedy: str) -> DataCheck:
    """Add a check to `CHECKS`, and return it.

    Args:
        number: Number in the check's code.
        kind: Consequence of the check.
        *line_forms: All forms of the printed line (`DataCheck.line`).
        remedy: Advice for a person.

    Raises:
        ValueError: Another check has the number.
    """
    check = DataCheck(f"FS-G{number:02d}", kind, line_forms, remedy)
    if check.code in CHECKS:
        raise ValueError(f"{check.code} is the code of another data check")
    CHECKS[check.code] = check
    return check


_REMARK, _QUESTION, _OPEN, _REFUSAL = CheckKind

# ------------------------------------------------------------------------------------ which pictures are good

WHICH_FOLDERS = _check(
    1,
    _QUESTION,
    "...: which folders hold good pictures? ...",
    remedy="[which folder is good](your-pictures.md#which-folder-is-good)",
)
WHICH_PICTURES = _check(
    2,
    _QUESTION,
    "...: which pictures are good? ...",
    remedy="[single pictures](your-pictures.md#single-pictures); a list that *cannot be understood*: "
    "correct it, move it away, or `--good all`",
)
WHICH_TO_LEARN = _check(
    3,
    _QUESTION,
    "...: which good pictures are to learn from? ...",
    remedy="fill in the column of the split, or remove it",
)
DEFECT_IN_GOOD_FOLDER = _check(
    4,
    _REFUSAL,
    "...: not good by ..., within ...; ...",
    remedy="`good/NG_7.png`, or a list: is that good?",
)
GOOD_BUT_MARKED = _check(
    5,
    _QUESTION,
    "...: counted as good, but something is marked: ...",
    "...; are they good? Move them, remove the marks, or go on with --force",
    remedy="move what is not good, remove the mark, or `--force`",
)

# ------------------------------------------------------------------------------ pictures that may not be good

SHOWS_NOTHING = _check(
    10,
    _REFUSAL,
    "... nothing beside the others (black, white, or a covered lens)",
    remedy="remove them; `--force` where the product looks so",
)
APART = _check(
    11,
    _OPEN,
    "... apart from the other pictures, like misfires or parts of another product: ...",
    remedy="look at these few pictures",
)
LIKE_DEFECTS = _check(
    12,
    _OPEN,
    "... as far out as defects are: without ...",
    "most of the pictures are as far out as defects are: ...",
    "... the score threshold, far out: ...",
    remedy="look at them: the model would miss defects because of them; after a change of camera or "
    "illumination fit anew",
)
TOO_FEW = _check(
    13,
    _OPEN,
    "... can calibrate...: ... could be promised, before it was ...",
    remedy="give more good pictures that the model has not seen",
)
FEWER_FOUND = _check(
    14,
    _OPEN,
    "..., because of: ...",
    remedy="look at these: with them the model would find fewer defects than before",
)
CALLED_GOOD = _check(
    15,
    _REFUSAL,
    "... called good, but as far out as defects",
    remedy="look again; `--drop-suspects` leaves them out",
)
DECIDES_ALONE = _check(
    16,
    _REMARK,
    "... alone ... from when on a picture is called anomalous ...",
    remedy="look at it: the threshold rests on it",
)
ANOMALOUS_BEFORE = _check(
    17,
    _REMARK,
    "called anomalous before, good from now on: ...",
    remedy="they raise the threshold: look at them",
)
UNLIKE_LEARNT = _check(
    18,
    _REMARK,
    "unlike the pictures learnt from (...), from now on expected: ...",
    remedy="right after a change, else misfires",
)
SUSPECTS = _check(
    19,
    _REMARK,
    "look whether these are good (...) ...",
    remedy="take out what is not good; `--drop-suspects`",
)

# --------------------------------------------------------------------------------------- parts, and copies

NEAR_DUPLICATES = _check(
    30,
    _REMARK,
    "near-duplicates: ...: one part photographed again? ...",
    remedy="they count once. If each shows another part: `--group '.*'`",
)
UNSURE_DUPLICATES = _check(
    31,
    _REMARK,
    "unsure: ... but for noise: alike parts, or one part again? ...",
    remedy="each counts as a part; see the pairs by `data check --out PAGE.html`, or give `--group`",
)
OTHER_PARTS_BY_NAME = _check(
    32,
    _REMARK,
    "..., although their names tell different parts: correct the pattern",
    remedy="`--group` takes pictures of one part for several",
)
COPIES_COUNT_ONCE = _check(33, _REMARK, "counted once: ... that are copies of others", remedy="nothing to do")
KNOWN_PICTURES = _check(
    34,
    _REMARK,
    "not calibrated with ... that the model was fitted on, or copies",
    "... nearly the same as known ones, such as ... as ...",
    remedy="they are known already, and count with the parts that the model knows",
)
NO_LOOKS = _check(
    35,
    _REMARK,
    "the model keeps no looks of ... copies of them that were saved anew are not known again, so give none",
    remedy="give pictures of new parts alone, no copies of training pictures",
)
COPIES_OF_LEARNT = _check(
    36,
    _REMARK,
    "none scores above ...: are they copies of ...",
    remedy="give pictures that the model has not learnt from",
)
JUDGED_WITHOUT_PART = _check(
    37,
    _REMARK,
    "judged without what the model has learnt of their parts, which names tell: ...",
    remedy="the threshold is rather too high",
)
LOST_PARTS = _check(
    38,
    _REMARK,
    "parts not found, counted wrong or lost in some light, and so counted as anomalous: ...",
    remedy="a smaller `--light`, another `--align`",
)
COUNTED_WRONG = _check(
    39,
    _REFUSAL,
    "parts are counted wrong in ... good pictures, such as ...",
    remedy="parts apart on a smooth background, or no `--several`",
)

# ------------------------------------------------------------------------------------------- masks and labels

NO_MASK = _check(50, _REMARK, "... (counted without its mask)", remedy="[masks](labels.md)")
INVERTED_MASK = _check(
    51,
    _REMARK,
    "more than half is marked as defect in ...",
    remedy="the mask is probably inverted: white is the defect",
)
TURNED_MASK = _check(
    52,
    _REMARK,
    "stored turned (EXIF), with a mask that fits upright and as stored: ...",
    remedy="the mask is taken as upright",
)
UNREADABLE_LABELS = _check(
    53, _REMARK, "... could not be read (...), nothing in it counts", remedy="a label file: export it again"
)
LABELS_OF_OTHER_SIZE = _check(
    54,
    _REMARK,
    "...: if it was made on smaller pictures, mark these",
    remedy="its marks are of pictures of another size",
)
OVERLAYS = _check(
    55,
    _REMARK,
    "passed over, since they are others with something drawn in: ...",
    remedy="overlays are neither learnt nor tested",
)
NOT_USED = _check(
    56,
    _REMARK,
    "not used, beside the folders of good and defective pictures: ...",
    remedy="`--good` names those that are good",
)
NAMED_LIKE_MASKS = _check(
    57,
    _REMARK,
    "named like masks, but photographs, which count as pictures: ...",
    remedy="right, or rename them",
)
LOOK_LIKE_MASKS = _check(
    58,
    _REMARK,
    "count as pictures, but look like masks: ...",
    remedy="call the mask of `a.png` `a_mask.png`",
)

# ---------------------------------------------------------------------------------------- files and pixels

SEVERAL_PICTURES = _check(
    70,
    _REFUSAL,
    "... it holds ... pictures; ...",
    "... its first picture is a preview; ...",
    remedy="take single pictures out; `--channels all` sees pages of a TIFF as one",
)
DAMAGED_FILE = _check(
    71,
    _REFUSAL,
    "the file is damaged (...); ...",
    "the file is truncated; ...",
    remedy="copy it again; check the camera's transfer",
)
SMALL_RANGE = _check(
    72,
    _REMARK,
    "the pictures use only ...: they are stretched, ...",
    remedy="the range is fixed in the model",
)
STRAY_PIXELS = _check(
    73,
    _REMARK,
    "..., lie far off all others: they are taken for ...",
    remedy="stuck pixels: nothing to do",
)
CLIPPED = _check(
    74, _REMARK, "... the range of nearly all others, and are clipped", remedy="another exposure?"
)
NO_DATA = _check(
    75,
    _REFUSAL,
    "some pixels are ..., far off all others, as where there is no data",
    remedy="replace such values in the files",
)
CANNOT_CALIBRATE = _check(
    76, _REMARK, "cannot calibrate on ...: ...; remove it", remedy="the others are done"
)
SCALE_LOST = _check(
    77,
    _REMARK,
    "... the length of a pixel, ..., is not known any more; ...",
    remedy="give `predict --scale-mm`",
)
OTHER_LIGHT = _check(
    78,
    _REMARK,
    "with ... most good pictures score above all of those in their own light, ...",
    remedy="[what illumination costs](light.md)",
)
