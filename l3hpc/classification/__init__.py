"""Classification of single-label clips over given folds: UrbanSound8K and ESC-50."""
