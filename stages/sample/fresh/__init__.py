"""Rollouts that begin at the prompt."""
