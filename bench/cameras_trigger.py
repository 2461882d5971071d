"""An industrial camera: does every trigger get the frame that was exposed for it?

    python bench/cameras_trigger.py

pylon's emulated camera in this process, behind a wire that holds frames back beyond the timeout, loses or
damages some of them (tests/station/industrial_helpers.py). The emulator draws the number of the exposure into
the picture, which the station does not look at: it goes by the camera's frame numbers. Triggers follow each
other at once until so many were answered.

right, wrong   answered with the frame of their own exposure, or another one
refused        told that there is no frame
opened         times that the camera was opened, after two triggers in a row without a frame
"""

from __future__ import annotations

import sys
from functools import partial

import common

sys.path.insert(0, str(common.ROOT / "tests" / "station"))

from industrial_helpers import triggered


def main() -> int:
    parser = common.parser(__doc__, "cameras_trigger", data=False)
    parser.add_argument("--triggers", type=int, default=10_000, help="answered (default: %(default)s)")
    args = common.arguments(parser, triggers=50)
    record = common.Record(args, "an industrial camera: the frame of each trigger")
    cell = record.cell("basler", partial(triggered, args.triggers))
    common.table("triggers", [{name: value for name, value in cell.items() if name != "_"}])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
