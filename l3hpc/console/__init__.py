"""Output for the terminal and logs: safe streams, progress, and tables of text."""
