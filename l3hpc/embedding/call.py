"""Names that programs written for earlier versions import from here; they are in ``embed``."""

from l3hpc.embedding.embed import AudioWarning, get_embedding

__all__ = ["AudioWarning", "get_embedding"]
