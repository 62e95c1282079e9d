"""Recipes that ship with the package: `apportion list recipes`, `apportion run NAME`."""
