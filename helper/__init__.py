"""Code that the notebooks share. Each file does one job."""
