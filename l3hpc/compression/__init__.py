"""Make a trained network smaller: prune, cut in width and depth, train again, weigh."""
