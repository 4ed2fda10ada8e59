"""Image files into a folder per cluster, planned, checked and undoable."""
