"""The commands, a file a group, with their options and exit codes."""
