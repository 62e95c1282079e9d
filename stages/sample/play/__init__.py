"""Strategies for agents: in an environment, or in a team."""
