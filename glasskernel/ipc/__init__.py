"""System V semaphores, shared memory and message queues."""
