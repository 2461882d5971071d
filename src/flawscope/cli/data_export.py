"""`data export`: what `predict --out` or `evaluate --out` found, as label files of another tool."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flawscope.cli import common
from flawscope.errors import InputError
from flawscope.progress import counted

FORMATS = ("coco", "fiftyone")


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from flawscope.artefact.files import atomic, check_writable
    from flawscope.pictures.decoding import decode
    from flawscope.results import labels
    from flawscope.review.flagged import read_flagged
    from flawscope.review.folders import proposed_mask

    if not args.out:
        raise InputError("data export needs --out: a .json file for COCO, a folder for FiftyOne")
    out = Path(args.out)
    if args.format == "coco":
        check_writable(out, ".json")
    else:
        common.folder_for_results(args.out)
    lost: list[str] = []
    every = read_flagged(args.data, every=True)
    step = common.step_for(args)

    def marked() -> Iterator[labels.Marked]:
        for done, one in enumerate(every, start=1):
            try:
                mask = proposed_mask(one) if one.row.decision == labels.ANOMALOUS else None
                if mask is None:
                    mask = np.zeros(decode(one.path).shape[:2], np.bool_)
                yield labels.Marked(one.name, one.path, one.row, mask)
            except InputError as error:
                lost.append(str(error))
            step("labels", done, len(every))

    def write(path: Path, document: dict[str, Any]) -> None:
        with atomic(path) as file:
            file.write(f"{json.dumps(document, allow_nan=False)}\n".encode())

    if args.format == "coco":
        write(out, labels.coco(marked()))
    else:
        boxes, places = labels.fiftyone(marked())
        write(out / "labels.json", boxes)
        write(out / "data.json", places)
    if not args.quiet:
        common.say(f"wrote {out}: {counted(len(every) - len(lost), 'picture')}")
    return common.report_failures(lost)
