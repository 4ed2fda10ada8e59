"""Shapes are checked in every test: jaxtyping's hook wraps the package's functions with beartype."""

from jaxtyping import install_import_hook

install_import_hook("shoal", "beartype.beartype")
