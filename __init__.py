"""apportion: divide the reward of a language model's rollouts among the tokens, steps and branches that earned it."""

__version__ = "0.1.0"
