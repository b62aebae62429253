"""Arrays in files of others: .npy, .npz, .pt and pickles, read as data without PyTorch. Nothing in them is run."""
