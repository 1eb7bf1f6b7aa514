"""Urban sound tagging: taxonomy, annotations, classifier, predictions and the exact metrics."""
