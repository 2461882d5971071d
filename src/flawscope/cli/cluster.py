"""`--cluster`, of the commands that run on several machines too."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        metavar="WHERE",
        help="run on a Ray cluster: auto (the one that runs here), local (this machine alone), or an address "
        "such as ray://HOST:10001 or HOST:6379",
    )
