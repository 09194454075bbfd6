"""What test files share: runs to train, and the programs that tests start."""
