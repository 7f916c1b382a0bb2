"""A page to look at: what a sharded program holds and sends, from the program itself or from a package."""
