"""Whatever people have, as a manifest: layouts, tables, downloads, preparation, statistics."""
