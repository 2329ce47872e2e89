"""Other people's tests of the system under them, run on the host and inside Glasskernel: make conformance.

cpython.py: modules of CPython's own test suite      stress.py: stressors of stress-ng
sweep.py:   our guest programs under many schedules   powercut.py: power cuts under ext4
__main__.py: runs them, writes docs/conformance.md
"""
