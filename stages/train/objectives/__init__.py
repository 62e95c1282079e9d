"""The objectives: each a loss of tokens, or of preference pairs."""
