"""Pictures of a recipe's mathematics, and of the kinds of a family next to each other. Needs matplotlib."""
