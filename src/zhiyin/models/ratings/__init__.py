"""Models of ratings: how many stars a user will give. Each is a recommender that ranks by the predicted rating."""
