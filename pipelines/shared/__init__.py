"""What several studies share: cells, tables, pictures, records."""
