"""Read-copy-update."""
