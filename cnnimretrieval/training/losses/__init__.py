"""What a step is judged by: losses over tuples, batches and classes, and what they need."""
