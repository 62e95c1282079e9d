"""Shared array mathematics: steps, nodes, turns, probes, cuts, values and statistics. Pure functions on `Segments`."""
