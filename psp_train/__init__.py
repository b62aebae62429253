"""Training and the trained networks of pixel2style2pixel in PyTorch."""
