"""Keys, signatures and sealing, post-quantum throughout."""
