"""Reports: tables for people, plain data for programs."""
