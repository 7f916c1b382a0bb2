#!/usr/bin/env bash
# HiGHS's "global" scheduler is one for each thread that calls it, and a clash with it is no exception.
#
# The first solve in a thread makes that thread a pool of workers. A later solve there that asks for another number of
# threads is not run: run() returns kError, the model's status stays "Not Set", and the objective reads 0.0; nothing is
# raised. The message says that a global scheduler exists already and proposes resetGlobalScheduler(). But the pool
# belongs to the calling thread: the same solve in a new Python thread runs with the number it asks for, and the first
# thread's pool is as it was. So a library can solve beside another user of HiGHS in the process without resetting
# anything.
#
# Seen with highspy 1.16.0 and numpy 2.4.6:
#   same thread, 2 then 1 threads: HighsStatus.kError Not Set 0.0
#   new thread, 1 thread: HighsStatus.kOk Optimal -7.0
#   first thread again, 2 threads: HighsStatus.kOk Optimal -7.0
# Exits non-zero where the clash is raised or solved, or where the new thread is refused too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet highspy==1.16.0 numpy==2.4.6
cat > "$work/pools.py" <<'PYTHON'
import sys
import threading

import highspy
import numpy as np


def solve(threads):
    """A knapsack of three items, the best worth 7."""
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", threads)
    columns = np.arange(3, dtype=np.int32)
    solver.addVars(3, np.zeros(3), np.ones(3))
    solver.changeColsIntegrality(3, columns, np.ones(3, dtype=np.uint8))
    solver.changeColsCost(3, columns, np.array([-3.0, -4.0, -2.0]))
    solver.addRow(-highspy.kHighsInf, 5.0, 3, columns, np.array([2.0, 3.0, 1.0]))
    status = solver.run()
    return status, solver.modelStatusToString(solver.getModelStatus()), solver.getInfo().objective_function_value


assert solve(2)[0] == highspy.HighsStatus.kOk
same, new = solve(1), []
thread = threading.Thread(target=lambda: new.append(solve(1)))
thread.start()
thread.join()
again = solve(2)
print("same thread, 2 then 1 threads:", *same)
print("new thread, 1 thread:", *new[0])
print("first thread again, 2 threads:", *again)
best = (highspy.HighsStatus.kOk, "Optimal", -7.0)
sys.exit(0 if same[0] == highspy.HighsStatus.kError and new[0] == best and again == best else 1)
PYTHON
"$work/venv/bin/python" "$work/pools.py"
