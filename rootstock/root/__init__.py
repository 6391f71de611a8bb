"""What lies on disk under a root: paths, permissions, records, locks, generations, checksums."""
