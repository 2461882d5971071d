"""The command line: a module for each command; only the called one is imported."""

from __future__ import annotations

# For commands of other packages (station/library-names.md)
from flawscope.cli.common import add_engine as add_engine
from flawscope.cli.common import add_quiet as add_quiet
from flawscope.cli.common import format_table as format_table
from flawscope.cli.common import parse_port as parse_port
from flawscope.cli.common import say as say
from flawscope.cli.common import say_unless_quiet as say_unless_quiet
from flawscope.cli.common import show as show
from flawscope.cli.program import HelpFormatter as HelpFormatter
from flawscope.cli.program import main as main
