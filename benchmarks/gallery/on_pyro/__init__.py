"""The gallery in Pyro: its models, and how they are trained and evaluated."""
