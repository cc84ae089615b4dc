"""Training: recipes, losses, the loop, and the teachers."""
