"""Models of ratings: how many stars a user will give. Each is a recommender too, and ranks by the predicted rating."""
