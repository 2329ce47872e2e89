"""tracefs: the file system of /sys/kernel/tracing."""
