"""The example of AIAG, Measurement Systems Analysis (4th edition, 2010), page 134: 50 parts, 3 appraisers, 3
trials; 1 accepts. The published counts and rates are in the tests."""

import numpy as np

from flawscope.evaluation.agreement import Study

REJECTED = {3, 4, 5, 9, 12, 22, 25, 26, 30, 34, 37, 39, 42, 45, 48, 50}
# trials of A, B and C on the parts on which they are not all agreed
MIXED = {
    6: "110 110 100", 7: "111 111 101", 12: "000 000 010", 14: "110 111 100", 21: "110 101 010",
    22: "001 010 110", 26: "010 000 001", 30: "000 001 000", 34: "001 001 011", 36: "110 111 101",
    43: "101 111 110",
}  # fmt: skip
PARTS = range(1, 51)


def rows():
    """Rows of a table of trials: part, appraiser, trial, decision, reference."""
    found = []
    for part in PARTS:
        reference = "0" if part in REJECTED else "1"
        said = MIXED.get(part, " ".join([3 * reference] * 3)).split()
        for name, decisions in zip("ABC", said, strict=True):
            found += [(str(part), name, str(k), one, reference) for k, one in enumerate(decisions, start=1)]
    return found


def study():
    decisions = {
        name: np.array([said == "0" for _, who, _, said, _ in rows() if who == name]).reshape(50, 3)
        for name in "ABC"
    }
    return Study(tuple(map(str, PARTS)), np.array([part in REJECTED for part in PARTS]), decisions)
