"""What several studies share: the frame of their programs, cells, tables, pictures, records."""
