"""Pictures of what the models find and how they learnt."""
