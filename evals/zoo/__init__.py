"""The zoo: every model type of transformers, shrunk by one recipe, exported, sharded and compared with the original."""
