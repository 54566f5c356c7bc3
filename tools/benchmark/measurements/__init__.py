"""What is measured: each module prepares its runners, lets them take turns, and returns the results."""
