"""What the questions ask of JAX and NumPyro."""
