"""From weights and audio to embeddings in one call: what openl3 and edgel3 were used for."""
