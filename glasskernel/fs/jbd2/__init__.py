"""jbd2: the journal of ext4. Linux: fs/jbd2 (5.3)."""
