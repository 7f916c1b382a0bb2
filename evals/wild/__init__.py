"""Models of many packages, none of them transformers', sharded and compared: ``make wild``."""
