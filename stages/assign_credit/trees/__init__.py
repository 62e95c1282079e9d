"""Credit from a tree of rollouts."""
