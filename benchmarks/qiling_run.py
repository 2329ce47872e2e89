"""Runs one program under Qiling, in Qiling's own environment: qiling_run.py PROGRAM ARGS..."""

import sys

from qiling import Qiling
from qiling.const import QL_VERBOSE

# Without multithread=True, Qiling 1.4.6 cannot fork; with it, a plain program is not slower.
ql = Qiling(sys.argv[1:], "/", verbose=QL_VERBOSE.DISABLED, multithread=True)
ql.run()
sys.exit(ql.os.exit_code)
