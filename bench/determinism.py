"""Does the same fit give the same bytes, again and with other numbers of threads?

    python bench/determinism.py --methods patchcore,efficientad,prnet --set steps=20

SHA-256 of every tensor that was learnt and of the calibration, each fit in a process of its own.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import common
from common import Args, Cell

CASES = {"first": None, "again": None, "1 thread": 1, "3 threads": 3}


def measure(args: Args, method: str, root: Path, folder: Path, threads: int) -> Cell:
    from flawscope.artefact.model_file import read

    model = folder / "determinism.safetensors"
    settings = common.settings(args, method)
    words = [w for k, v in settings.items() for w in ("--set", f"{k}={'null' if v is None else v}")]
    count = str(threads)
    env = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "MKL_DYNAMIC": "FALSE"}
    command = ("fit", "--data", root, "--method", method, "--preset", args.preset, "--out", model, "--quiet")
    child = common.flawscope(*command, "--device", "cpu", *words, env=env)
    artefact = read(model)
    scores = repr(artefact.manifest.calibration.to_dict()).encode()
    hashes = {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in sorted(artefact.tensors.items())}
    hashes["calibration"] = hashlib.sha256(scores).hexdigest()
    return {"threads": artefact.manifest.facts["threads"], "sha256": hashes, **child.facts}


def main() -> int:
    parser = common.parser(__doc__, "determinism", methods="all")
    args = common.arguments(parser, threads=2, methods="patchcore")
    record = common.Record(args, "what was learnt, fitted twice and with other numbers of threads")
    rows = []
    with common.workspace(args.work) as folder:
        for category, root in common.roots(args):
            for method in common.methods(args):
                name = f"{category}/{method}, {common.label(common.settings(args, method), args.preset)}"
                first: Cell | None = None
                for case, threads in CASES.items():
                    of = (method, root, folder, threads or args.threads)
                    cell = record.attempt(f"{name}/{case}", lambda o=of: measure(args, *o))
                    first = first or cell
                    if cell is None or first is None:
                        continue
                    differ = [k for k, v in cell["sha256"].items() if v != first["sha256"].get(k)]
                    record.summarise(f"{name}/{case}", {"differ": differ})
                    whole = hashlib.sha256(repr(cell["sha256"]).encode()).hexdigest()[:16]
                    row = {"model": name, "fit": case, "threads": cell["threads"], "all": whole}
                    rows.append({**row, "differ": ", ".join(differ) or "none"})
    common.table("SHA-256 of what was learnt", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))
