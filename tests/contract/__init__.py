"""Every method through the same checks."""
