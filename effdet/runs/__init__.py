"""What a run is: resolve a config, build its parts, train, evaluate, keep the run folder."""
