"""Entry point of `python -m flawscope`."""

import sys

from flawscope.cli import main

sys.exit(main())
