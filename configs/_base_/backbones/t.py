embed_dims = [64, 128, 256, 512]  # channels of the four maps, what necks and heads take in
