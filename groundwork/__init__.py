"""What every stage stands on: files, records, keys, locks, memory, tasks, photos, search."""
