"""Print the signals of a PLC's handshake, for the person who programs it."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from flawscope.errors import InputError, require_installed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument(
        "--format",
        choices=("csv", "nodeset"),
        default="csv",
        help="Form of the table: csv, or a nodeset of OPC UA in XML (default: csv).",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="File to write; a nodeset needs one (default: print the table).",
    )
    parser.add_argument(
        "--inputs", type=int, default=0, metavar="N", help="First register of the PLC's signals (default: 0)."
    )
    parser.add_argument(
        "--outputs",
        type=int,
        default=100,
        metavar="N",
        help="First register of the station's signals (default: 100).",
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the table of the signals, and return the exit code."""
    if args.format == "csv":
        from flawscope_line.plc.signals import signals_csv

        text = signals_csv(args.inputs, args.outputs)
        if args.out is None:
            print(text.rstrip("\n"))
        else:
            args.out.write_text(text, encoding="utf-8")
        return 0
    if args.out is None:
        raise InputError("a nodeset is a file: name it with --out FILE.xml")
    require_installed("a nodeset of OPC UA", "asyncua", extras="plc", package="flawscope-line")
    from flawscope_line.plc.opcua import write_nodeset

    asyncio.run(write_nodeset(args.out))
    return 0
