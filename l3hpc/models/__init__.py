"""L3-Net and its students: shapes, weight files, the Keras networks, inference and training."""

# The network in the folder of a task: of finetune, of train and distill, of avc_train, of prune.
NETWORK_FILES = ("model_best_valid_acc.h5", "model_best_valid_loss.h5", "teacher.h5", "network.h5")
