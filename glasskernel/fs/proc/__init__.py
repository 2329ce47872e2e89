"""procfs: what the kernel knows of itself and of its processes, as files. root.py puts it together."""
