"""Rollouts that mend, retry or corrupt earlier ones."""
