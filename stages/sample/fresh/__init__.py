"""Strategies whose rollouts begin at the prompt."""
