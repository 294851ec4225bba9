"""deconv against its peers and its floors, side by side in one run: `python -m benchmarks`. Not part of the wheel."""
