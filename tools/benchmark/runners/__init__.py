"""The runners, whose steps are measured. Each runs in its own process, which ``serve`` controls."""
