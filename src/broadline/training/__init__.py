"""Training: what a network is taught, and what its mistakes cost."""
