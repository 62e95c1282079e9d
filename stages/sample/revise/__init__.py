"""Strategies that mend, retry or corrupt earlier rollouts."""
