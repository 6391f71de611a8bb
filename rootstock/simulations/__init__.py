"""What is done with structures: single points, relaxations, dynamics."""
