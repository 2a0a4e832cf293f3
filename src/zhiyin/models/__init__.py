"""Recommenders, one file a family. A new model is one file here and one line in `MODELS`."""

# The module of each model, below `zhiyin`: what `zhiyin.NAME`, the command line, the configuration and saved manifests
# look a model up in. Modules are imported at first use.
MODELS = {
    "Random": "models.random",
    "Popular": "models.popularity",
    "ItemKNN": "models.neighbors",
    "UserKNN": "models.neighbors",
    "RP3beta": "models.random_walk",
    "Transitions": "models.transitions",
    "EASE": "models.linear",
    "SLIM": "models.slim",
    "GraphFilter": "models.spectral",
    "ALS": "models.als",
    "BPR": "models.bpr",
    "BiasedMF": "models.ratings.biased_mf",
    "SVDpp": "models.ratings.svdpp",
    "TimeSVDpp": "models.ratings.timesvdpp",
    "BayesianFM": "models.ratings.bayesian_fm",
    "PureSVD": "models.svd",
    "Content": "models.content",
    "PopularInCategory": "models.content",
    "Hybrid": "models.hybrid",
    "Friends": "models.social",
    "SASRec": "models.sequence.sasrec",
    "HSTU": "models.sequence.hstu",
    "GRU4Rec": "models.sequence.gru4rec",
    "NARM": "models.sequence.narm",
    "Caser": "models.sequence.caser",
    "NeuMF": "models.neumf",
    "MultVAE": "models.multvae",
    "LightGCN": "models.lightgcn",
    "UltraGCN": "models.ultragcn",
    "TwoTower": "models.two_tower",
    # The recommender of a layer above, so that it is made and loaded like all others.
    "Pipeline": "pipeline.pipeline",
}
