"""Instructions and answers as turns of a user and an assistant."""
