"""What is computed: one folder per command, one file per method."""
