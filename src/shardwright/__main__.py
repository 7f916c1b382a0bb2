"""``python -m shardwright``."""

from shardwright.cli.app import main

main()
