"""How long does a training step take, of the methods that learn in steps?

    python bench/step.py
    python bench/step.py --methods efficientad --preset paper
    python bench/step.py --methods prnet --seen 10 --device cuda

Seconds of whole steps; the next batch is drawn, read and changed meanwhile by one thread, as in a training.
Where a training computes in bf16, the same in fp32 stands beside it, in turn. Then the parts of a step one
after the other: `batch` is made ahead, beside the rest.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
from common import Cell, Settings


class Ready(Exception):
    """A trainer that is ready for its first step."""


def trainer_for(method: str, root: str, preset: str, seen: int, device: str, settings: Settings) -> Any:
    """As `flawscope.fit` makes it."""
    import flawscope
    from flawscope.methods import registry
    from flawscope.methods.training import Trainer

    def stop(self: Any, *given: Any, **options: Any) -> None:
        raise Ready(self)

    learn, Trainer.learn = Trainer.learn, stop  # type: ignore[method-assign]
    defects = {"seen": seen} if registry.method(method).takes_seen_defects else {}
    data = flawscope.open_dataset(root)
    try:
        flawscope.fit(data, method=method, preset=preset, device=device, **defects, **settings)
    except Ready as found:
        trainer = found.args[0]
        trainer.prepare(False)
        return trainer
    finally:
        Trainer.learn = learn  # type: ignore[method-assign]
    raise SystemExit(f"{method} has no trainer of flawscope.methods.training")


class Stepper:
    """Steps of a trainer, whole with the next batch made meanwhile, and its parts."""

    def __init__(self, trainer: Any):
        self.trainer, self.pool, self.done = trainer, ThreadPoolExecutor(1), 0
        for network in trainer.networks:
            network.train()
        self.batch = trainer.batch(0)
        self.losses: Any = None

    def whole(self) -> None:
        waiting = self.pool.submit(self.trainer.batch, self.done + 1)
        self.forward()
        self.backward()
        self.optimise()
        self.batch, self.done = waiting.result(), self.done + 1

    def draw(self) -> None:
        self.done += 1
        self.batch = self.trainer.batch(self.done)

    def forward(self) -> None:
        import torch

        self.losses = torch.stack(self.trainer.losses(self.trainer.networks, self.batch, self.done)).sum()
        self._wait()

    def backward(self) -> None:
        self.trainer.optimiser.zero_grad(set_to_none=True)
        self.losses.backward()
        self._wait()

    def optimise(self) -> None:
        self.trainer.optimiser.step()
        self._wait()

    def parts(self) -> dict[str, common.Work]:
        """In the order of a step: each goes on from what the one before it left."""
        return {
            "batch": self.draw,
            "forward": self.forward,
            "backward": self.backward,
            "optimiser": self.optimise,
        }

    def _wait(self) -> None:
        """For what a GPU still has to do."""
        if self.trainer.device.type == "cuda":
            import torch

            torch.cuda.synchronize()


def steps(of: tuple[str, str, str, int, str], settings: Settings, repeats: int, threads: int) -> Cell:
    """Seconds of steps, in turn; ratios are to the first one. of: arguments of `trainer_for`."""
    import torch

    torch.set_num_threads(threads)
    own = Stepper(trainer_for(*of, settings))
    whole: dict[str, common.Work] = {f"flawscope, {own.trainer.precision}": own.whole}
    if own.trainer.precision != "fp32":
        whole["flawscope, fp32"] = Stepper(trainer_for(*of, {**settings, "training": "fp32"})).whole
    times = common.time_rounds(whole, repeats, warm=min(repeats, 2))
    parts = common.time_rounds(own.parts(), max(2, repeats // 3))
    first = next(iter(times))
    return {
        "seconds": {name: common.p50_p99(t) for name, t in times.items()},
        "ratio": {name: common.median_ratio(t, times[first]) for name, t in times.items()},
        "ratio_to": first,
        "parts": {name: common.p50_p99(t) for name, t in parts.items()},
        "parameters": sum(p.numel() for n in own.trainer.networks for p in n.parameters()),
        "batch": own.trainer.settings.batch,
        "device_peak_mib": common.device_peak(of[-1]),
    }


def main() -> int:
    from flawscope.methods import registry

    parser = common.make_parser(__doc__, "step", methods="all")
    parser.add_argument("--seen", type=int, default=0, help="defects, for methods that learn from them")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=30, help="default: %(default)s")
    args = common.parse_arguments(parser, threads=2, repeats=1)
    record = common.Record(args, "a training step")
    rows, parts = [], []
    for _, root, method, name in common.cases(args):
        if not registry.method(method).learns_in_steps:
            continue
        name += f", {args.seen} seen/{args.device}, {args.threads} threads"

        def measure(method: str = method, root: Path = root) -> Cell:
            of = (method, str(root), args.preset, args.seen, args.device)
            limits = {"repeats": args.repeats, "threads": args.threads}
            child = common.run_function(steps, of=of, settings=common.settings(args, method), **limits)
            return {**child.json, **child.facts}

        cell = record.attempt(name, measure)
        if cell is None:
            continue
        for which, found in cell["seconds"].items():
            times = {"ms": common.to_ms(found), "/ first": cell["ratio"][which], "repeats": found["repeats"]}
            rows.append({"of": name, "step": which, **times})
        parts.append({"of": name, **{k: common.to_ms(v) for k, v in cell["parts"].items()}})
    common.print_table("a training step", rows)
    common.print_table("its parts, ms; the batch is made beside the others", parts)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))
