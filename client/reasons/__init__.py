"""Why a trained model says what it says of one image: maps, pictures of them, and a page."""
