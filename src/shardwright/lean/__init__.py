"""One rank's program made leaner: the same numbers with fewer nodes, in an order that keeps ranks from waiting."""
