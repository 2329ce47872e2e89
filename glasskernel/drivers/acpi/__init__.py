"""ACPI: what the firmware says of the machine, and its events."""
