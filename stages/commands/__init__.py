"""The table of commands, and the commands that read it: `list`, `log`, `schema`."""
