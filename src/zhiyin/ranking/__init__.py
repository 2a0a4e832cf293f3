"""Rankers: order the candidates by features of user, item and moment.

A new ranker is one file here and one line in `RANKERS`.
"""

# The module of each ranker, below `zhiyin`. Modules are imported at first use.
RANKERS = {
    "Trees": "ranking.trees",
    "FM": "ranking.fm",
    "DeepFM": "ranking.deepfm",
    "DCNv2": "ranking.dcn",
    "DIN": "ranking.din",
    "MultiTask": "ranking.multitask",
}
