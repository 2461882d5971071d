"""How long until `flawscope` answers? Against `python -c "import numpy"`, whole processes in turn.

python bench/startup.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import common
from common import Cell


def measure(repeats: int) -> Cell:
    script = Path(sys.executable).with_name("flawscope")
    start = [str(script)] if script.is_file() else [sys.executable, "-m", "flawscope"]
    commands = {
        "flawscope --help": [*start, "--help"],
        "flawscope --version": [*start, "--version"],
        "flawscope fit --help": [*start, "fit", "--help"],
        "import flawscope": [sys.executable, "-c", "import flawscope"],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "nothing": [sys.executable, "-c", "pass"],
    }
    works = {
        name: lambda c=command: subprocess.run(c, check=True, capture_output=True)  # type: ignore[misc]
        for name, command in commands.items()
    }
    times = common.time_rounds(works, repeats)
    numpy = times["import numpy"]
    ratios = {k: {"/ import numpy": common.median_ratio(t, numpy)} for k, t in times.items()}
    return {k: common.summary(t) | ratios[k] for k, t in times.items()}


def main() -> int:
    parser = common.make_parser(__doc__, "startup", data=False)
    parser.set_defaults(repeats=10)
    args = common.parse_arguments(parser, repeats=1)
    record = common.Record(args, "start-up, whole processes")
    cell = record.cell("startup", lambda: measure(args.repeats))
    found = common.without_metadata(cell).items()
    rows = [{"command": k, "ms": common.to_ms(v), "/ import numpy": v["/ import numpy"]} for k, v in found]
    common.print_table("start-up", rows)
    return 0


if __name__ == "__main__":
    sys.exit(common.run_script(main))
