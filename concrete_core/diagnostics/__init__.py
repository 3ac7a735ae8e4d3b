"""Running moments of gradients, reports, tables and figures."""
