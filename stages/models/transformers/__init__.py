"""The engine for a `transformers` model."""
