"""The report of a run: finished artifacts in, one HTML page and a results folder out.

Reads only. ``collect`` turns artifact folders into ``Findings``; ``page`` turns findings into HTML
with inline SVG; ``results`` writes both, with the small files people want to keep.
The page asks for nothing from outside: no scripts, no fonts, no network.
"""
