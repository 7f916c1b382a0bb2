"""The compiler: all axes one after the other, scarce heads, budgets, and the result with every rank's program."""
