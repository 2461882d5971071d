"""What each test costs: seconds of CPU time, its own processes' included, kept in build/durations.tsv.

A fixture that several tests share has a row of its own, so that no test pays for being the first; so has
what is made once in a run or a process, `apart`. Unit tests (docs/testing.md) cost little and start no
process and no server. One that does otherwise fails; it may take twenty times the CPU time that is asked,
since machines differ, and a second counts for less where others are busy.
"""

import builtins
import os
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

MOST, FAILS = 0.3, 6.0  # seconds of CPU time of a unit test: asked, and at which it fails
REFUSED = ("subprocess.Popen", "os.posix_spawn", "os.fork", "socket.bind", "socket.connect")
WHOLE = "tests/whole/"
_plugins = []  # that of this process


def processor_seconds():
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def apart(name):
    """What is done within has a row `name` of its own: not of the test that first needs it."""
    return _plugins[0].apart(name) if _plugins else nullcontext()


class Durations:
    """Of one process of a run. Where several share the tests, the first gets the reports of all."""

    def __init__(self, config):
        self._spent, self._shared, self._fixtures = 0.0, 0.0, Counter()
        self._asked, self._item = set(), None
        self._rows, self._outcomes, self._skips = Counter(), {}, defaultdict(set)
        self.place = Path(os.environ.get("DURATIONS", config.rootpath / "build" / "durations.tsv"))
        self.is_worker = hasattr(config, "workerinput")
        if not self.is_worker:
            self.place.parent.mkdir(exist_ok=True)
            self.place.write_text("seconds\toutcome\tname\n", encoding="utf-8")
        sys.addaudithook(self._audit)
        self._import, self._importing = builtins.__import__, False
        builtins.__import__ = self._load

    def _load(self, name, *given, **named):
        """What a test is the first to import is nobody's."""
        if self._importing or name in sys.modules:
            return self._import(name, *given, **named)
        self._importing = True
        try:
            with self.apart("imports"):
                return self._import(name, *given, **named)
        finally:
            self._importing = False

    @contextmanager
    def apart(self, name):
        begun, within = processor_seconds(), self._shared
        try:
            yield
        finally:
            # less what has rows of its own within
            cost = processor_seconds() - begun - (self._shared - within)
            self._shared += cost
            self._fixtures[name] += cost

    def _audit(self, event, args):
        if event in REFUSED and self._item and not self._importing:  # matplotlib looks for fonts, once
            self._asked.add(event)

    # ------------------------------------------------------------------------------------- where tests run

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        self._spent, self._shared, self._fixtures, self._asked = 0.0, 0.0, Counter(), set()
        return (yield from self._measured())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self._item = None if WHOLE in item.nodeid else item
        try:
            return (yield from self._measured())
        finally:
            self._item = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        try:
            ended = yield from self._measured()
        finally:
            own = self._spent - self._shared
            item.user_properties.append(("durations", list({item.nodeid: own, **self._fixtures}.items())))
        why = [*sorted(self._asked), *[f"{own:.1f} s of CPU time"] * (own > FAILS)]
        if why and WHOLE not in item.nodeid and "cuda" not in item.keywords:
            pytest.fail(f"no unit test (docs/testing.md): {', '.join(why)}", pytrace=False)
        return ended

    def _measured(self):
        begun = processor_seconds()
        try:
            return (yield)
        finally:
            self._spent += processor_seconds() - begun

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        is_shared = fixturedef.scope != "function"
        with self.apart(f"fixture {fixturedef.argname}") if is_shared else nullcontext():
            return (yield)

    # ------------------------------------------------------------------------------ where they are reported

    def pytest_runtest_logreport(self, report):
        if self.is_worker:
            return
        if report.skipped and isinstance(report.longrepr, tuple):
            self._skips[report.longrepr[2].removeprefix("Skipped: ")].add(report.nodeid)
        if report.when != "teardown":
            if report.outcome != "passed" or report.when == "call":
                self._outcomes[report.nodeid] = report.outcome
            return
        facts = dict(report.user_properties)
        with self.place.open("a", encoding="utf-8") as table:
            for name, cost in facts.get("durations", []):
                self._rows[name] += cost
                table.write(f"{cost:.3f}\t{self._outcomes.get(name, 'passed')}\t{name}\n")

    def pytest_terminal_summary(self, terminalreporter):
        kinds, files = Counter(), Counter()
        for name, cost in self._rows.items():
            kinds["shared" if "::" not in name else "end-to-end" if WHOLE in name else "unit"] += cost
            files[name.partition("::")[0]] += cost
        if not kinds:
            return
        listed = ", ".join(f"{kind} {cost:.0f} s" for kind, cost in kinds.most_common())
        terminalreporter.write_line(f"CPU time: {listed}; each in {self.place}; most:")
        for name, cost in files.most_common(40 if kinds["end-to-end"] > 1000 else 5):
            terminalreporter.write_line(f"{cost:8.1f}  {name}")
        beyond = {name: cost for name, cost in self._rows.items() if "::" in name and WHOLE not in name}
        beyond = {name: cost for name, cost in beyond.items() if cost > MOST}
        for name, cost in sorted(beyond.items(), key=lambda pair: -pair[1])[:20]:
            terminalreporter.write_line(f"above {MOST} s: {name}: {cost:.2f}")
        if len(beyond) > 20:
            terminalreporter.write_line(f"and {len(beyond) - 20} more")
        reasons = [f"{len(names)} ({reason})" for reason, names in sorted(self._skips.items())]
        if reasons:
            terminalreporter.write_line(f"skipped: {', '.join(reasons)}")


def pytest_configure(config):
    _plugins[:] = [Durations(config)]
    config.pluginmanager.register(_plugins[0])
