"""Pages that the server serves: plain files, with nothing from anywhere else."""
