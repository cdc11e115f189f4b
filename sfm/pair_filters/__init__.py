"""Plug-ins between matching and mapping that take out verified pairs which show no common place."""
