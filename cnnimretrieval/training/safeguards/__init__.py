"""What keeps a training from being lost, or from going on when it cannot end well."""
