"""The keys of a config: a table of what they mean and what their values may be, and its check."""
