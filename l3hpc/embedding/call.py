"""Old import path of names in ``embed``, kept for programs written for earlier versions."""

from l3hpc.embedding.embed import AudioWarning, get_embedding

__all__ = ["AudioWarning", "get_embedding"]
