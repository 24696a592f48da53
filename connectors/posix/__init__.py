"""What the file system connector stands on: inodes, mounts, folders and the walk over them. Linux only."""
