"""The web pages: sign in, connect, watch, revoke. Server-rendered; JavaScript only improves them."""
