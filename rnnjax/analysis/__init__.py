"""What a trained net does inside: units that track something, and figures of them."""
