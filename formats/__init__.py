"""What is on disk: the rollout schema, reading and writing, provenance, recipes. Knows pyarrow and numpy, not torch."""
