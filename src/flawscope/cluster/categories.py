"""`fit --category a,b --cluster`: each category's fit as a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flawscope.benchmark.run import Live
from flawscope.cluster.connect import nodes, require_shared
from flawscope.cluster.jobs import Tell, memory_line, running, share
from flawscope.cluster.peaks import peaks
from flawscope.errors import FlawscopeError
from flawscope.progress import Step, counted

Call = TypeVar("Call")
Found = TypeVar("Found")


def fit_each(
    fit: Callable[[Call, Step], Found],
    calls: Mapping[str, Call],
    fits: Mapping[str, Mapping[str, Any]],
    root: str,
    out: str,
    live: Live,
    say: Callable[[str], None],
    done: Callable[[str, Found | FlawscopeError], None],
    *,
    threads: int | None,
    device: str,
) -> None:
    """Run `fit(call, step)` for every category, each in a process of its own on the cluster that this process
    is connected to.

    Args:
        fit: a function of a module, which all nodes have. It writes its model to the folder `out`.
        calls: by category. Their attribute `threads` is set, and `again` where an earlier try was lost, from
            whose checkpoint this one may go on.
        fits: as `peaks` takes them.
        done: gets each category with what came out, or with the error, in the order in which they end.

    Raises:
        InputError: no node can fit one, or not all see the pictures and the folder.
    """
    each = share(nodes(), len(calls), threads, device)
    require_shared(root, "put the pictures where every node sees them under this path")
    with running(Path(out), each, live, fresh=True) as tasks:
        memory = dict(zip(calls, peaks(list(fits.values()), each), strict=True))
        at_once = min(len(calls), each.at_once(max(memory.values())))
        say(
            f"{counted(at_once, 'fit')} at a time on {counted(len(each.nodes), 'node')}, "
            f"{counted(each.threads, 'thread')} each, {memory_line(list(memory.values()), each)} each"
        )
        given = {category: (call, tasks.note(category)) for category, call in calls.items()}
        tasks.each(partial(_fit, fit, each.threads), given, memory, done)


def _fit(fit: Callable[[Any, Step], Any], threads: int, given: tuple[Any, Path], tell: Tell) -> Any:
    """On a node."""
    call, begun = given
    call.threads, call.again = threads, begun.exists()
    begun.touch()
    return fit(call, lambda stage, done, total: tell(f"{stage} {done} of {total}"))
