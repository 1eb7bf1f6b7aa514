"""From weights and audio to embeddings in one call, in the manner of openl3 and edgel3."""
