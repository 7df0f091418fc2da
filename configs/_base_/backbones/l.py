embed_dims = [96, 192, 448, 640]  # channels of the four maps, what necks and heads take in
