"""Credit that differs from token to token."""
