"""The report of a run: one HTML page and a folder with the files worth keeping.

``collect`` reads finished artifacts into ``ReportData`` (``data``); ``page`` turns that into HTML,
with the SVG figures of ``charts``, and writes the results folder. Artifacts are only read. The page
loads nothing from elsewhere: no scripts, no fonts, no network.
"""
