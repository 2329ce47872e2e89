"""The block layer: bios, requests, I/O schedulers, disks and their partitions."""
