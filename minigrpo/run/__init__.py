"""One run from the command line: its flags, its folder, its checkpoints, its engine."""
