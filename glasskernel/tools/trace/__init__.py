"""Traces on the host's side: recording, showing, comparing and saving them."""
