"""Pictures: read into arrays, changed, shown, and written."""
