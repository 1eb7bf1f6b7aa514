"""Make a trained network smaller: prune it, cut its width and depth, re-train it, measure its size.
"""
