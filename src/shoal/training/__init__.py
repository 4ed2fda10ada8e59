"""The EM loop and what it keeps."""

from shoal.training.loop import fit
from shoal.training.state import Run

__all__ = ["Run", "fit"]
