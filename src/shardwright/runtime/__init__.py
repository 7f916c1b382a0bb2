"""Running a sharded program: process groups, launching ranks."""
