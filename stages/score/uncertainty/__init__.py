"""How undecided the policy was."""
