"""What a person has decided about a clustering: kept as lines that are only ever added, and replayed."""
