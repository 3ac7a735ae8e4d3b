"""What the questions ask of PyTorch and Pyro."""

import torch

# The arrays are small: a second thread would only wait for the first.
torch.set_num_threads(1)
