"""What is served and how: indexes, the servable, the model server, the client."""
