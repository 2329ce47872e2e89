"""Clocks and timers that are not part of a CPU."""
