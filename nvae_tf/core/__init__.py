"""What everything may use: errors, files, progress, extras."""
