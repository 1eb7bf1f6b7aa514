"""φ, from the teacher's embedding to the student's target: streaming PCA, UMAP, and its file."""
