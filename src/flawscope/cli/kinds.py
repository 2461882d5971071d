"""Teach a model to name kinds of defects, by labelled pictures: its scores and regions stay the same."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flawscope.artefact import files
from flawscope.cli import common
from flawscope.errors import InputError

if TYPE_CHECKING:
    from flawscope.datasets import Item
    from flawscope.datasets.masks import Mask
    from flawscope.predictor.kinds import Example


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope kinds` to its parser."""
    parser.add_argument("model", metavar="MODEL", help="Model file.")
    parser.add_argument(
        "--data",
        required=True,
        metavar="ROOT",
        help="Data set whose defective test pictures show the kinds, a folder of each; masks say where.",
    )
    parser.add_argument("--category", metavar="NAME", help="Category to take, of several in ROOT.")
    common.add_good(parser)
    parser.add_argument(
        "--error",
        type=common.parse_rate,
        default=0.1,
        metavar="RATE",
        help="Share of answers that may lack the true kind (default: 0.1).",
    )
    common.add_product(parser)
    parser.add_argument(
        "--out", required=True, metavar="MODEL2", help="Model file to write, of the same kind."
    )
    common.add_engine(parser)
    common.add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Teach a model kinds of defects, and write it; return 1 if pictures were skipped, else 0."""
    from flawscope.datasets.layouts import open_defects
    from flawscope.predictor.kinds import learn_kinds
    from flawscope.predictor.router import load

    out = files.check_writable(args.out, os.path.splitext(args.model)[1].lower())
    # first, so that wrong data are reported before a model is opened, which takes longer
    items = open_defects(args.data, args.category, good=args.good)
    if not items:
        raise InputError(f"{args.data} has no defective pictures: give a data set with a folder of each kind")
    model = load(args.model, engine=args.engine, device=args.device, threads=args.threads)
    names = common.product_names(model, args)
    if len(names) > 1:
        raise InputError(f"--data has kinds of one product: name it with --product, {' or '.join(names)}")
    (name,) = names
    step = common.progress_for(args)
    outcome = learn_kinds(
        model.products[name], _examples(items), error=args.error, step=step, total=len(items)
    )
    model.with_product(name, outcome.model).save(out)
    kinds = outcome.model.manifest.kinds
    assert kinds is not None
    say = common.say_unless_quiet(args)
    for line in (kinds.describe(), kinds.describe_left_out(), *outcome.notes, f"wrote {out}"):
        say(line)
    return common.report_failures(outcome.failures)


def _examples(items: list[Item]) -> Iterator[Example]:
    """Yield an example for each picture and kind: the picture, the kind, and the mask if there is one.

    The kind is the name of the picture's folder. If this name says only that pictures are bad, and the
    picture has labels, there is an example for each name of a label instead.
    """
    from flawscope.datasets.labels import PictureLabels
    from flawscope.datasets.masks import union_masks
    from flawscope.pictures.folder_words import says_only_bad
    from flawscope.predictor.kinds import Example

    for item in items:
        masks_by_kind: dict[str, list[Mask]] = {}
        for mask in item.masks:
            if isinstance(mask, PictureLabels) and says_only_bad(item.kind):
                for label, shape in zip(mask.kinds, mask.shapes, strict=True):
                    kind = label or item.kind
                    masks_by_kind.setdefault(kind, []).append(replace(mask, shapes=(shape,)))
            else:
                masks_by_kind.setdefault(item.kind, []).append(mask)
        if not masks_by_kind:
            yield Example(item.path, item.kind)
        for kind, masks in masks_by_kind.items():
            yield Example(item.path, kind, partial(union_masks, masks))
