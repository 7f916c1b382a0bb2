"""Plans: patterns of module or parameter names → styles, resolved to pinned layouts."""
