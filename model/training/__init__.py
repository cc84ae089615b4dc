"""How weights are made: recipes, losses, the loop, and the teachers."""
