"""List the feature extractors whose weights are on this machine, and how to get the others."""

from __future__ import annotations

import argparse
import json

from flawscope.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flawscope.methods.features.weights import DEFAULT_BACKBONE, PACKAGED, cached_models

    rows = []
    for name, packaged in PACKAGED.items():
        at_hand = packaged.find() is not None
        rows.append((name, "yes" if at_hand else "no", packaged.licence, packaged.install))
    rows += [(name, "yes", "see the model's page", "in the local hub cache") for name in cached_models()]
    if args.json:
        keys = ("name", "at_hand", "licence", "from")
        print(
            json.dumps(
                [{**dict(zip(keys, r, strict=True)), "at_hand": r[1] == "yes"} for r in rows], indent=1
            )
        )
        return 0
    print(common.table(rows, ("backbone", "at hand", "licence", "from")))
    print(f"\nThe default is {DEFAULT_BACKBONE}. Any other timm model works with --backbone NAME:")
    print(
        "its weights are downloaded once, or given with --weights FILE (safetensors or a torch checkpoint)."
    )
    return 0
