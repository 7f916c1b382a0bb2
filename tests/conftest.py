"""For all tests: every pass's program is checked, in the processes that tests start too."""

import os

from shardwright.program.legal import CHECK_SWITCH

os.environ.setdefault(CHECK_SWITCH, "1")
