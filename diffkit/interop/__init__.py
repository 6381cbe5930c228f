"""Models of other libraries: read as recipes and weights, and written."""
