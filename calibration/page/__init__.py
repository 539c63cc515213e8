"""Parts of the build's report page: markup that escapes, plots in SVG, and the sections."""
