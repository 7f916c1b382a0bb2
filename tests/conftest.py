"""For all tests: every pass's program is checked, in the processes that tests start too."""

import os

from shardwright.program.legal import SWITCH

os.environ.setdefault(SWITCH, "1")
