"""Key management: imported by the first key or keyring."""
