"""Running a package: launched ranks, process groups, this rank's piece, and compiled code (`aot`)."""
