"""Learning on the device: liquid networks in numpy, and the plain baselines printed beside them."""
