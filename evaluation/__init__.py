"""Evidence: runs the layers over a list of prompts, measures them, and writes a table and a page of pictures."""
