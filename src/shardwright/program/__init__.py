"""Programs: `ExportedProgram` read, made flat, run on simulated ranks, and written again."""
