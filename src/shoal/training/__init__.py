"""The training loop and the state it saves."""

from shoal.training.loop import fit
from shoal.training.run import Run

__all__ = ["Run", "fit"]
