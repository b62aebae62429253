"""`psp-ui`, the web demo."""
