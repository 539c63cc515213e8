"""Drawing of results on frames."""
