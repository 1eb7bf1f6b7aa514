"""Kept for pickled calls of earlier versions: ``TaskCall`` is in ``l3hpc.worker.execute``."""

from l3hpc.worker.execute import TaskCall

__all__ = ["TaskCall"]
