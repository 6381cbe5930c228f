"""How fast a recipe trains and samples, what that takes of the machine, and the same of other libraries."""
