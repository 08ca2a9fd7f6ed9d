"""Outlets: cursors that only take. What they lose is their own, counted apart, and costs the analysis nothing."""
