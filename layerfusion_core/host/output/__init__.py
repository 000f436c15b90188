"""What a run leaves: names of files, pictures for the viewer."""
