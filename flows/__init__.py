"""The command `dwszoo`, its recipes, and the stages and Prefect flows that run them."""
