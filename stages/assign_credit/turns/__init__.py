"""Credit of turns and steps."""
