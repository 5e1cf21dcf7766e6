"""Does attention name what a tuned ResNet cannot? Registered comparisons on relations between digits."""
