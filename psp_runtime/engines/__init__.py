"""Engine files: what they say about themselves, and how each kind is opened and run."""
