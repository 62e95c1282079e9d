"""Rewards of whole rollouts."""
