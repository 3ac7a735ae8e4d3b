"""The models of the zoo for Pyro."""
