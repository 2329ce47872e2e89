"""The block layer. So far only the I/O priorities of tasks, which it will honour."""
