"""Raw files of any shop to tables: formats, columns, ids, cells and times."""
