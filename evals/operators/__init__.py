"""The operator score card: PyTorch's own operator database, sharded, simulated and compared (`make ops`)."""
