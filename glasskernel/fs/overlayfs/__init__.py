"""overlayfs: a writable tree on top of read-only ones. super.py mounts it."""
