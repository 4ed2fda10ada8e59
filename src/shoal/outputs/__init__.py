"""What becomes of a clustering of frozen features: tables, folders, other programs' files."""
