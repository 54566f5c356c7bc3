"""From predictions and targets to new weights."""
