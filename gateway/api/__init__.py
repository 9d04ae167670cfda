"""The JSON routes, by what they serve."""
