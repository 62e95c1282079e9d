"""Strategies whose rollouts branch off one another."""
