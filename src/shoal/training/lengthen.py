"""Extends a run beyond the epochs or steps that it was begun with."""

from __future__ import annotations

from dataclasses import replace

from shoal import distributed
from shoal.config import to_yaml
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.progress import counted
from shoal.training.optim import full_lr, lr_factor
from shoal.training.run import Run
from shoal.training.settings import check_lengths


def lengthen(run: Run, epochs: int | None = None, max_steps: int | None = None) -> str:
    """Give a run that was saved another number of epochs, or another limit of steps.

    A limit that the run has reached is lifted unless another one is given. The settings in the folder and the state
    are written anew. All ranks must call this.

    Args:
        run: as ``Run.load`` has it.
        epochs: of the whole run; None leaves them.
        max_steps: of the whole run; None leaves them, or lifts them.

    Returns:
        What the schedule now means, in a line; empty where nothing changes.

    Raises:
        UserError: the run is past them already; the rate would be 0 throughout, or a stage of the method never begin;
            another process is changing the run.
    """
    before = run.config
    reached = before.max_steps is not None and run.done and max_steps is None
    limit = None if reached else (max_steps or before.max_steps)
    config = replace(before, epochs=epochs or before.epochs, max_steps=limit)
    if config == before:
        return ""
    done, whole = run.steps_done, run.steps_per_epoch * config.epochs
    last = min(whole, limit or whole)
    if last < done:
        asked = f"--max-steps {limit}" if last == limit else f"--epochs {config.epochs}"
        raise UserError(
            f"{run.folder.path} has done {done} steps, {run.steps_per_epoch} an epoch, and {asked} ends it at {last}: "
            "give more."
        )
    check_lengths(config)
    full = full_lr(run.batch_size, config.optim)
    old = full * lr_factor(max(done - 1, 0), run.steps_per_epoch, before.epochs, config.optim)
    new = full * lr_factor(done, run.steps_per_epoch, config.epochs, config.optim)
    run.config, run.lengthened = config, True
    run.state.done = run.state.done and run.trained
    with distributed.only_first(run.folder.alone()):
        run.save()
        if distributed.is_first():
            atomic_write(run.folder.config, to_yaml(config).encode())
    if last == done:
        return f"schedule     the run has done its {done} steps, and ends here"
    length = counted(config.epochs, "epoch")
    share = "" if config.epochs == before.epochs else f", as does all that depends on the share of {length} done"
    return (
        f"schedule     step {done + 1} to {last}: the rate was {old:.3g}, and from {new:.3g} on follows the schedule "
        f"of {length}{share}"
    )
