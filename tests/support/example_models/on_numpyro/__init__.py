"""The models of the zoo for NumPyro."""
