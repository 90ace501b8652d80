"""What runs when: recipes, stages, the Prefect flow, the command."""
