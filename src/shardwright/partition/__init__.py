"""Partition: from a program and an assignment to one rank's program, and from that to an `ExportedProgram`."""
