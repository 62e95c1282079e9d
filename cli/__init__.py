"""The commands: parse, call the stage, print."""
