"""The report of an INT8 build, as JSON and as a page."""
