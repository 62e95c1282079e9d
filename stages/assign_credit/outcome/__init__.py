"""Credit from outcome rewards: one number a rollout, the same on all of its tokens."""
