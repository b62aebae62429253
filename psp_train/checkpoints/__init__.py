"""Weight files: opened as data, understood by their shapes, loaded strictly."""
