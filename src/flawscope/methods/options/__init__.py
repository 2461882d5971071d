"""Options of a fit. Command line, YAML files, updates, searches, station and docs read the same records.

`record` has the type of a record. `arguments` has the options that are arguments of `fit`, `settings` the
options that are settings of methods, `call` the options of only the command line. `table` joins all options.
`stored` has the functions that read options from a model, `conflicts` the rules for options that do not go
together. The package imports neither torch nor numpy: help and the station's pages load it.
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
