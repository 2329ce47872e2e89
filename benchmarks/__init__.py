"""How fast Glasskernel is beside its peers: `make bench`, or `python -m benchmarks --help`."""
