"""What the notebooks share: one file per helper of the lecture, each readable in five minutes."""
