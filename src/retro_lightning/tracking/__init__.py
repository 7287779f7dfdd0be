"""What is kept of a run for people: MLflow, figures, tables. Named in YAML, never by training."""
