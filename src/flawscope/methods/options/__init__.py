"""Options of a fit: each is a record, which command line, files, updates, searches, station and docs read.

`record` has the type of a record, `arguments` the options that `fit` takes, `settings` those of methods,
`call` those of the command line alone, `stored` the functions that read options from a model, `table` all
options, `conflicts` those that do not go together. It imports neither torch nor numpy: help and the pages of
a station use the options.
"""

from flawscope.methods.options.conflicts import Conflict as Conflict
from flawscope.methods.options.conflicts import ConflictError as ConflictError
from flawscope.methods.options.conflicts import check_options as check_options
from flawscope.methods.options.conflicts import find_conflicts as find_conflicts
from flawscope.methods.options.record import FitOption as FitOption
from flawscope.methods.options.table import BENCHMARK as BENCHMARK
from flawscope.methods.options.table import FIT_OPTIONS as FIT_OPTIONS
from flawscope.methods.options.table import NEW_PRODUCT as NEW_PRODUCT
from flawscope.methods.options.table import names_of as names_of
