"""From files to MODEL and VAE."""
