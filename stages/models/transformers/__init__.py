"""The engine on a `transformers` model."""
