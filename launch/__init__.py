"""How and where jobs start: one thin script per stage, and the few files they share."""
