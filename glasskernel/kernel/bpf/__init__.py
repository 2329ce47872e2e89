"""BPF: programs of users that run in the kernel, once it has proved that they can do no harm."""
