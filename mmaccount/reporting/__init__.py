"""What the trainer left behind, as pictures, words and one page."""
