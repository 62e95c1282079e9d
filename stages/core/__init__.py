"""What every stage stands on: entries and their kinds, options, the driver of files, and what is printed."""
