"""L3-Net and its students: shapes, weight files, the Keras networks, inference and training."""
