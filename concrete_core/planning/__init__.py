"""The costs of enumerating sites, and the choice of sites to enumerate."""
