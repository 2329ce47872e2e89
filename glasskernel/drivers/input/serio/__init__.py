"""Serial ports of keyboards and mice."""
