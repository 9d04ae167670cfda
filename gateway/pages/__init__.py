"""Pages: timelines for people, rendered by the server and complete without JavaScript."""
