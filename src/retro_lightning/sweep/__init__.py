"""Studies: many fits over a space of configurations, by Optuna, told in MLflow."""
