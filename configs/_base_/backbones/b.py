embed_dims = [96, 192, 384, 512]  # channels of the four maps, what necks and heads take in
