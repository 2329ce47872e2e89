"""debugfs: the file system of /sys/kernel/debug."""
