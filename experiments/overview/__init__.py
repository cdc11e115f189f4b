"""A collection at a glance, for the search page and the report: groups of photos, and a map of them."""
