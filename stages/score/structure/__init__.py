"""What a rollout is made of: its steps, states and edges."""
