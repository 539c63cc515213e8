"""Tracks of faces over frames, their smoothed labels, and their schedule."""
