"""What the gateway can carry, as ratios to a rival and a limit measured in the same run: `uv run python -m bench`."""
