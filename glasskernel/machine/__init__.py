"""The hardware: CPU engine, RAM, clock, event queue, interrupt lines, console, the host's files.

Knows nothing of Linux. The only package that may import unicorn or ctypes.
"""
