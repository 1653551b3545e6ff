"""What is run with the rest: presets of training, ablations, benchmarks, and their recorded results."""
