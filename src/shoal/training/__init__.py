"""The EM loop and what it keeps."""

from shoal.training.loop import fit
from shoal.training.run import Run

__all__ = ["Run", "fit"]
