"""From a folder, a table or an archive to a datalist."""
