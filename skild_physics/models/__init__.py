"""Models of every kind behind one interface; loading and saving them."""
