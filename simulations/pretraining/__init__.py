"""Public starting weights from hospitals whose patients need no protection."""
