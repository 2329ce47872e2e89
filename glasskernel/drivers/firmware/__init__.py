"""Tables of the firmware."""
