"""Credit from values of states: a critic's, or the mean of probes."""
