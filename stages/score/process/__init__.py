"""Rewards and values of steps."""
