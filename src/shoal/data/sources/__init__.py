"""One file for each kind of place that images come from; ``find`` says what a path leads to."""
