"""Training by torch: autograd for the gradients, torch.optim for the update."""
