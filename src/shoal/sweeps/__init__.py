"""Many runs at once: the settings and seeds of a sweep, its processes, and tables that compare what came of them."""
