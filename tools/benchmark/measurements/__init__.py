"""The measurements. Each module prepares its runners, runs them in turns, and returns the results."""
