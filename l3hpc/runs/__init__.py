"""A run from its folder to its end: submit, watch, resume, cancel, and what it used."""
