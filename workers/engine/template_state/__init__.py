"""Records what templates change of objects that outlive their node, and replays it in other processes."""
