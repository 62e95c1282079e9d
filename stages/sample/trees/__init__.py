"""Rollouts that leave one another."""
