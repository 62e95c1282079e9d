"""Rollouts of agents: in an environment, or in a team."""
