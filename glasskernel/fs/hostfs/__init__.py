"""hostfs: directories of the host as a file system of the guest. See hostfs_kern."""
