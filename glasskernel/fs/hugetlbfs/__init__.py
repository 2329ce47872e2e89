"""The ext4 file system; ext2 and ext3 images mount through it too (Linux: fs/ext4)."""
