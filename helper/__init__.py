"""What the notebooks share, in files that each do one job."""
