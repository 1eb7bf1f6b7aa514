"""Names that scripts of earlier versions hold: see ``l3hpc.worker.requeue``."""
