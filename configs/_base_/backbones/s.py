embed_dims = [64, 128, 320, 512]  # channels of the four maps, what necks and heads take in
