"""Tracing: ring buffers, tracefs, tracers. Linux: kernel/trace/ (5.3). Imported by the first who asks for it."""
