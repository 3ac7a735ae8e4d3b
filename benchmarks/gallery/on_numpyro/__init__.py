"""The gallery in NumPyro: its models, and how they are trained and evaluated."""
