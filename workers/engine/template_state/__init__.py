"""Changes that templates make to objects which outlive their node: recorded and replayed in other processes."""
