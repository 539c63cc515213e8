"""The networks by name, and the bundles and weights that ship with the package."""
